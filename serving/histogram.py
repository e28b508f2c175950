"""How often values of each size occurred: cheap to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class Buckets(NamedTuple):
    """Counts of the values up to each bound, and of those above the last one; `total` is the sum of all values."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


class Histogram:
    """Written by one thread; another may read it at any time."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def buckets(self) -> Buckets:
        return Buckets(self._bounds, tuple(self._counts), self._total)
