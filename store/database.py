"""The engine under the catalogue: SQLite in the store's folder, or whatever an URL names."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from store.errors import ConflictError, IntegrityError, InvalidSettingError, ReadOnlyStoreError
from store.files import Layout, make_folder, sync_folder

BUSY_S = 30.0
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})  # ERROR: a table is missing
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def connect_engine(layout: Layout, *, url: str | None, read_only: bool) -> sa.Engine:
    """Return an engine that has connected to nothing yet."""
    if url is None:
        return _sqlite_engine(layout.catalogue, read_only=read_only)
    try:
        address = sa.make_url(url)
        if address.get_backend_name() != "sqlite":
            return sa.create_engine(address)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        problem = str(error).splitlines()[0]
        raise InvalidSettingError(
            f"catalogue {url.partition(':')[0]}:… cannot be opened ({problem}): give an SQLAlchemy URL whose driver "
            "is installed, such as postgresql+psycopg://USER@HOST/NAME"
        ) from None
    if not address.database:
        raise InvalidSettingError(f"catalogue {url!r} names no file: leave it out, and it lies in the store's folder")
    return _sqlite_engine(Path(address.database), read_only=read_only)


def _sqlite_engine(path: Path, *, read_only: bool) -> sa.Engine:
    # No connection outlives its call: the last one to close folds the write-ahead log into the file, so that
    # between calls the folder can be counted and copied, and a fork inherits nothing.
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        creator=lambda: _connect(path, read_only=read_only),
        poolclass=NullPool,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock first: one that reads and then finds the lock taken would have to start again.
        writes = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def make_file(engine: sa.Engine) -> None:
    """Make the empty file that SQLite takes for a new database; elsewhere the database exists."""
    if engine.dialect.name == "sqlite":
        path = Path(str(engine.url.database))
        make_folder(path.parent)
        path.touch()
        sync_folder(path.parent)


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = ("mode=ro" if _has_log(path) else "mode=ro&immutable=1") if read_only else "mode=rw"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=BUSY_S, isolation_level=None
    )
    connection.execute("PRAGMA foreign_keys=ON")
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # with NORMAL a power cut takes the last commits
    return connection


def _has_log(path: Path) -> bool:
    """Say whether a writer is at work or has crashed; without one, SQLite needs no file beside the catalogue."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


@contextmanager
def typed(place: str) -> Iterator[None]:
    """Turn what SQLite and the driver raise into our errors."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is its family
        if code in DAMAGED:
            raise IntegrityError(f"the catalogue {place} is damaged ({cause}): restore it from a copy") from None
        if code in BUSY:
            raise ConflictError(
                f"the catalogue {place} was locked for {BUSY_S:.0f} s: let the other writer end"
            ) from None
        if code in UNWRITABLE:
            raise ReadOnlyStoreError(
                f"the catalogue {place} cannot be opened or written ({cause}): make the folder writable for this user, "
                "or work on a copy"
            ) from None
        raise
