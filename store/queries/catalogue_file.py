"""Which file the catalogue's name stands for: after a rebuild or a restore it is another one than before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from store.errors import StorageError
from store.queries.sql import Select

FileId = tuple[int, int]
"""Device and inode: a file that was renamed over another has its own."""


class CatalogueFile:
    """The SQLite file at a path. Every use looks which file that is, as an open connection would keep the old one.

    `accept`, once it is set, is called with what reads a file that came in place of the first one, and raises where it
    may not be used.
    """

    def __init__(self, path: Path, *, read_only: bool, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self.path = path
        self.read_only = read_only
        self.accept: Callable[[Select], None] | None = None
        self._connect = connect
        self._accepted: FileId | None = None

    def connect(self) -> sqlite3.Connection:
        return self._connect(self.path)

    def identify(self) -> FileId:
        """Return which file it is now; raise `StorageError` where there is none."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise StorageError(
                f"the catalogue {self.path} cannot be reached ({error.strerror}): bring its folder back, restore it "
                "from a copy of the store, or rebuild it with `rebuild(url)`"
            ) from None
        current = (status.st_dev, status.st_ino)
        if self.accept is not None and current != self._accepted:
            self._check(self.accept)
            self._accepted = current
        return current

    def accept_with(self, accept: Callable[[Select], None]) -> None:
        """Check every file but the one that is there now."""
        self._accepted = self.identify()
        self.accept = accept

    def _check(self, accept: Callable[[Select], None]) -> None:
        with closing(self.connect()) as connection:
            accept(lambda sql, **parameters: connection.execute(sql, parameters))
