"""A bounded queue that divides the work between keys, so that one key's flood does not delay the others."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import Counter
from typing import Generic, TypeVar

from store.errors import OverloadedError

T = TypeVar("T")
MAX_WAITING, MAX_WAITING_OF_A_KEY = 512, 256


class FairQueue(Generic[T]):
    """Start-time fair queuing (Goyal et al. 1996): an item starts where its key's last one ends, or at virtual time."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, str, T]] = []
        self._ends: dict[str, float] = {}
        self._waiting: Counter[str] = Counter()
        self._now = 0.0
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def check_room(self, key: str) -> None:
        """Raise `OverloadedError` where the queue, or the key's part of it, is full."""
        if len(self._items) >= MAX_WAITING or self._waiting[key] >= MAX_WAITING_OF_A_KEY:
            raise OverloadedError(f"{len(self._items)} images wait to be decoded: try again later, or add replicas")

    def put(self, key: str, cost: float, item: T) -> None:
        """Queue an item of so much work; raise `OverloadedError` where there is no room."""
        with self._changed:
            self.check_room(key)
            start = max(self._now, self._ends.get(key, 0.0))
            self._ends[key] = start + cost
            self._waiting[key] += 1
            heapq.heappush(self._items, (start, next(self._numbers), key, item))
            self._changed.notify()

    def get(self) -> T | None:
        """Wait for the item that starts first; None once the queue is closed."""
        with self._changed:
            while not self._items and not self._closed:
                self._changed.wait()
            if not self._items:
                return None
            self._now, _, key, item = heapq.heappop(self._items)
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
            if not self._items:
                self._ends.clear()
                self._now = 0.0
            elif len(self._ends) > 2 * MAX_WAITING:
                self._ends = {name: end for name, end in self._ends.items() if end > self._now}
            return item

    def close(self) -> None:
        """Let those who wait get what is queued, and then None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
