"""Where questions to the catalogue come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Self

from store.rows import Select


class Asking:
    """Ask questions within a snapshot that `connect` opens."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Select]]) -> None:
        self.connect = connect

    @classmethod
    def within(cls, select: Select) -> Self:
        """Read within a transaction that is open already."""

        @contextmanager
        def connect() -> Iterator[Select]:
            yield select

        return cls(connect)
