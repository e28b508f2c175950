"""The database of the catalogue: an SQLite file, or a server by its SQLAlchemy URL."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from store.errors import ConflictError, IntegrityError, InvalidSettingError, StorageError
from store.queries.sql import Row, Select
from store.queries.sqlite import connect, translated

Statement = sa.Insert | sa.Update | sa.Delete
Parameters = dict[str, object]
Execute = Callable[..., int]
"""Run a statement built at import with one or more rows of named parameters; return how many rows it changed."""

QUEUE = 0x6F6E6574  # names the advisory lock on PostgreSQL: "onet"


class Database:
    """Transactions on the catalogue, one writer at a time in the order in which they came."""

    def __init__(self, path: Path | None, *, url: str | None, read_only: bool) -> None:
        self.url = url
        self.place = str(path) if path is not None else _without_password(url or "")
        self.path = path
        self._engine = _sqlite_engine(path, read_only=read_only) if path is not None else _server_engine(url or "")
        self._pid = os.getpid()

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def close(self) -> None:
        self._own_engine().dispose()

    @contextmanager
    def snapshot(self) -> Iterator[Select]:
        """Read within one consistent state."""
        with typed(self.place), self._own_engine().begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield selecting(connection)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Change the catalogue, all or nothing."""
        with typed(self.place), self._queued(), self._own_engine().execution_options(write=True).begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({QUEUE})")
            yield connection

    @contextmanager
    def _queued(self) -> Iterator[None]:
        # SQLite's writers poll for its lock with growing sleeps, so that of sixteen most sleep while it is free.
        # The kernel's file lock wakes the next at once. It only orders them: SQLite's own lock protects the data.
        if self.path is None:
            yield
            return
        descriptor = os.open(self.path.with_name("catalogue.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _own_engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            self._engine.dispose(close=False)  # a fork must not use, nor close, the connections of its parent
            self._pid = os.getpid()
        return self._engine


def selecting(connection: sa.Connection) -> Select:
    """Return what runs queries within this transaction."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):  # a tenth of the time, within the lock that bounds all writers

        def select_directly(sql: str, **parameters: object) -> Iterable[Row]:
            return driver.execute(sql, parameters)

        return select_directly

    def select(sql: str, **parameters: object) -> Iterable[Row]:
        return (tuple(row) for row in connection.execute(_text(sql), parameters))

    return select


def executing(connection: sa.Connection) -> Execute:
    """Return what runs a statement within this transaction, for one row of parameters or many."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):  # as above

        def execute_directly(statement: Statement, *rows: Parameters) -> int:
            sql = _sqlite_text(statement)
            return (driver.execute(sql, rows[0]) if len(rows) == 1 else driver.executemany(sql, rows)).rowcount

        return execute_directly

    def execute(statement: Statement, *rows: Parameters) -> int:
        return int(connection.execute(statement, rows[0] if len(rows) == 1 else rows).rowcount)

    return execute


@lru_cache(maxsize=256)
def _sqlite_text(statement: Statement) -> str:
    return str(statement.compile(dialect=sqlite.dialect(paramstyle="named")))


@lru_cache(maxsize=256)
def _text(sql: str) -> sa.TextClause:
    return sa.text(sql)


def _server_engine(url: str) -> sa.Engine:
    try:
        return sa.create_engine(sa.make_url(url), pool_pre_ping=True, pool_size=4, max_overflow=16)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        problem = str(error).splitlines()[0]
        raise InvalidSettingError(
            f"catalogue {url.partition(':')[0]}:… cannot be opened ({problem}): give an SQLAlchemy URL whose driver "
            "is installed, such as postgresql+psycopg://USER@HOST/NAME"
        ) from None


def _sqlite_engine(path: Path, *, read_only: bool) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        creator=lambda: connect(path, read_only=read_only),
        poolclass=sa.QueuePool,
        pool_size=2,
        max_overflow=30,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock first: one that reads and then finds the lock taken would have to start again.
        writes = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]


@contextmanager
def typed(place: str) -> Iterator[None]:
    """Raise our errors for those of the driver."""
    try:
        yield
    except PoolTimeout as error:
        raise ConflictError(
            f"the catalogue {place} has no free connection ({error}): wait until other work ends"
        ) from None
    except DBAPIError as error:
        raise _translated(error, place) from None
    except sqlite3.Error as error:
        raise translated(error, place) from None


def _translated(error: DBAPIError, place: str) -> BaseException:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return translated(cause, place)
    line = (str(cause).strip().splitlines() or ["no answer"])[0]
    if isinstance(error, sa.exc.ProgrammingError):  # a table is missing
        return IntegrityError(
            f"the catalogue {place} is damaged ({line}): restore it from a copy, or name another with `catalogue=`"
        )
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return StorageError(
            f"the catalogue {place} does not answer ({line}): check that the database runs and is reachable"
        )
    return error
