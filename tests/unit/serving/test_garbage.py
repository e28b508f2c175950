"""The collector in a server: what a long collection found alive is looked through no more."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from serving.garbage import LongCollections


class Node:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def frozen_by(generation: int, long_s: float) -> int:
    before, watch = gc.get_freeze_count(), LongCollections(long_s)
    try:
        gc.collect(generation)
    finally:
        watch.close()
    return gc.get_freeze_count() - before


@pytest.mark.parametrize(("generation", "long_s", "frozen"), [(2, 0.0, True), (2, 1e9, False), (1, 0.0, False)])
def test_what_is_alive_is_frozen_after_a_full_collection_that_took_long(
    generation: int, long_s: float, frozen: bool
) -> None:
    assert (frozen_by(generation, long_s) > 0) == frozen


def test_garbage_is_collected_before_the_rest_is_frozen_and_later_garbage_after_it() -> None:
    for _ in range(2):
        garbage = weakref.ref(Node())
        frozen_by(2, 0.0)
        assert garbage() is None


def test_a_watch_that_is_closed_freezes_nothing() -> None:
    LongCollections(0.0).close()
    before = gc.get_freeze_count()
    gc.collect()
    assert gc.get_freeze_count() == before
