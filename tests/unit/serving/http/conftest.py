from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.oracle import make_backbone, make_task

from serving.runtime.predictor import Predictor
from store.registry.store import Store
from store.weights.backbones import encode


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("limits")
    backbone = make_backbone(folder / "backbone")
    with Store.open(folder / "store", create=True) as opened:
        opened.add_backbone(backbone.record, encode(backbone))
        made = make_task(backbone, folder / "task", depth=2, classes=3, seed=1)
        opened.publish("acme/cars", made.folder, backbone=backbone.record.name, depth=2)
        yield opened


@pytest.fixture(scope="module")
def predictor(store: Store) -> Iterator[Predictor]:
    with Predictor(store, dtype="float32") as predictor:
        yield predictor
