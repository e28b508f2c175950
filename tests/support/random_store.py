"""A store of random tasks on one random backbone, for what serves it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.registry.store import Store
from store.weights.backbones import encode
from support.oracle import make_backbone, make_task


@contextmanager
def random_store(folder: Path, *versions: tuple[str, int]) -> Iterator[Store]:
    """Make the store in the folder, and publish a version of three classes for each task and depth."""
    backbone = make_backbone(folder / "backbone")
    with Store.open(folder / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for number, (task, depth) in enumerate(versions):
            made = make_task(backbone, folder / str(number), depth=depth, classes=3, seed=depth)
            store.publish(task, made.folder, backbone=backbone.record.name, depth=depth)
        yield store
