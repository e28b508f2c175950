"""The catalogue's SQLite file through the standard library: connections, snapshots and errors."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from store.backends.atomic_write import sync_folder, writing
from store.errors import (
    IntegrityError,
    InvalidNameError,
    InvalidSettingError,
    ReadOnlyStoreError,
    StorageError,
    StoreBusyError,
)
from store.queries.catalogue_file import CatalogueFile, FileId
from store.queries.sql import Row, Select, check_parameters

BUSY_S = 30.0
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})  # ERROR: a table is missing
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
LIMITS = ("pattern too complex", "too many SQL variables", "too many terms", "Expression tree is too large")
FAILED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL})


@dataclass(frozen=True)
class _ThreadConnection:
    """A thread's connection, the process that opened it, as a fork must not use it, and the file that it is to."""

    connection: sqlite3.Connection
    pid: int
    file: FileId


class SqliteRows:
    """Snapshots of the file; a writable one keeps one connection per thread, as opening costs more than a query."""

    def __init__(self, file: CatalogueFile) -> None:
        self.file = file
        self._local = threading.local()

    @contextmanager
    def snapshot(self) -> Iterator[Select]:
        with typed_errors(str(self.file.path)):
            connection = self._connection()
            nested = connection.in_transaction  # within an outer snapshot of this thread, which goes on
            if not nested:
                connection.execute("BEGIN")
            try:
                yield lambda sql, **parameters: _rows(connection, sql, parameters)
            finally:
                if not nested:
                    connection.rollback()
                if self.file.read_only:
                    connection.close()

    def problems(self) -> list[str]:
        """Return what SQLite finds wrong with the pages of its file."""
        with self.snapshot() as select:
            return [line for (line,) in select("PRAGMA integrity_check(10)") if line != "ok"]

    def close(self) -> None:
        """Close this thread's connection; the last one to close moves the write-ahead log into the file."""
        own: _ThreadConnection | None = getattr(self._local, "own", None)
        if own is not None and own.pid == os.getpid():
            own.connection.close()
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        own: _ThreadConnection | None = getattr(self._local, "own", None)
        if own is not None and own.pid != os.getpid():
            own = None
        if own is not None and own.connection.in_transaction:
            return own.connection
        file = self.file.identify()
        if self.file.read_only:
            return self.file.connect()
        if own is not None and own.file != file:
            own.connection.close()
            own = None
        if own is None:
            own = self._local.own = _ThreadConnection(self.file.connect(), os.getpid(), file)
        return own.connection


def _rows(connection: sqlite3.Connection, sql: str, parameters: dict[str, object]) -> Iterator[Row]:
    check_parameters(parameters)
    try:
        return connection.execute(sql, parameters)
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"{error.object[:80]!r} cannot be written as UTF-8: use valid Unicode") from None


def catalogue_file(path: Path, *, read_only: bool) -> CatalogueFile:
    return CatalogueFile(path, read_only=read_only, connect=partial(connect, read_only=read_only))


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open a file that exists; a connection may pass from thread to thread, one at a time."""
    mode = ("mode=ro" if _has_log(path) else "mode=ro&immutable=1") if read_only else "mode=rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{mode}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA foreign_keys=ON")
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # with NORMAL a power cut takes the last commits
    return connection


def make_file(path: Path) -> None:
    """Make an empty file, which SQLite reads as a new database, durably, unless there is one."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        sync_folder(path.parent)


def _has_log(path: Path) -> bool:
    """Return whether a writer is at work or has crashed; without one, SQLite needs no file beside the catalogue."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def typed_errors(location: str) -> Iterator[None]:
    """Raise our errors for those of SQLite."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, location) from None
    except UnicodeDecodeError:  # SQLite quotes the bytes that it cannot read
        raise translate(sqlite3.OperationalError("its text is not UTF-8"), location) from None


def translate(error: BaseException, location: str) -> BaseException:
    """Return our error for one of SQLite, and any other error unchanged."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is its family
    if code == sqlite3.SQLITE_TOOBIG or any(limit in str(error) for limit in LIMITS):
        return InvalidSettingError(f"the request is larger than the catalogue takes ({error}): ask for less at once")
    if code in DAMAGED or (isinstance(error, sqlite3.OperationalError) and code == 0):  # 0: text that is not UTF-8
        return IntegrityError(
            f"the catalogue {location} is damaged ({str(error)!a}): restore it from a copy, or move it away "
            "and rebuild it with `rebuild(url)`"
        )
    if code in BUSY:
        return StoreBusyError(
            f"the catalogue {location} was locked for {BUSY_S:g} s: wait until the other writer ends, or end it"
        )
    moved = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED
    if moved or (code in UNWRITABLE and not Path(location).exists()):
        return StorageError(f"the catalogue {location} was moved away meanwhile: bring it back, then try again")
    if code in UNWRITABLE:
        return ReadOnlyStoreError(
            f"the catalogue {location} cannot be opened or written ({error}): make the folder writable for this user, "
            "or work on a copy"
        )
    if code in FAILED:
        return StorageError(
            f"the catalogue {location} cannot be read or written ({error}): look at the disk, then retry"
        )
    return error
