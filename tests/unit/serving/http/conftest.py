from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.random_store import random_store

from serving.runtime.predictor import Predictor
from store.registry.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with random_store(tmp_path_factory.mktemp("limits"), ("acme/cars", 2)) as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor(store: Store) -> Iterator[Predictor]:
    with Predictor(store, dtype="float32") as predictor:
        yield predictor
