"""Whose turn it is: several engines of a process use the same cores, one call at a time, in the order they ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class FairLock:
    """A lock that is handed on in the order in which it was asked for, so that no engine starves another."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._asked = self._begun = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the turn, and hand it on at the end."""
        with self._changed:
            number = self._asked
            self._asked += 1
            self._changed.wait_for(lambda: self._begun == number)
        try:
            yield
        finally:
            with self._changed:
                self._begun += 1
                self._changed.notify_all()
