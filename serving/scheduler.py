"""Decide which waiting requests run next; pure, so that it can be tested without an engine or a clock."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from store.errors import OverloadedError

T = TypeVar("T")


class Scheduler(Generic[T]):
    """First come, first served, as many as are waiting whenever the engine is free: no batch timeout to tune.

    `max_rows` bounds the memory of one batch and `max_waiting` that of the queue.
    """

    def __init__(self, *, max_rows: int = 16, max_waiting: int = 1024) -> None:
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._waiting: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, request: T) -> None:
        """Queue a request; raise `OverloadedError` when the queue is full."""
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(
                f"{len(self._waiting)} requests are waiting, at most {self._max_waiting} may: "
                "try again later or add replicas"
            )
        self._waiting.append(request)

    def take(self) -> list[T]:
        """Remove and return the requests of the next batch, oldest first."""
        return [self._waiting.popleft() for _ in range(min(self._max_rows, len(self._waiting)))]
