"""The database of the catalogue: an SQLite file, or a server by its SQLAlchemy URL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from store.backends.layout import CATALOGUE_LOCK
from store.catalogue.file_lock import LOCK_S, FileLock
from store.errors import IntegrityError, InvalidSettingError, StorageError, StoreBusyError
from store.queries.catalogue_file import CatalogueFile
from store.queries.sql import Row, Select, check_parameters
from store.queries.sqlite import catalogue_file, translate

Statement = sa.Insert | sa.Update | sa.Delete
Parameters = dict[str, object]
Execute = Callable[..., int]
"""Run a statement built at import with one or more rows of named parameters; return how many rows it changed."""

LIBPQ: Mapping[str, int] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""How soon a server that no longer answers is given up, in seconds, the last in milliseconds."""

IDLE_S = 120.0  # how long a transaction on PostgreSQL may stand still
LOCK_NOT_AVAILABLE = "55P03"
QUEUE = 0x6F6E6574  # names the advisory lock on PostgreSQL: "onet"


class Database:
    """Transactions on the catalogue, one writer at a time in the order in which they came."""

    def __init__(self, path: Path | None, *, url: str | None, read_only: bool) -> None:
        self.url = url
        self.location = str(path) if path is not None else _without_password(url or "")
        self.path = path
        self.file = catalogue_file(path, read_only=read_only) if path is not None else None
        self._lock = FileLock(path.with_name(CATALOGUE_LOCK)) if path is not None else None
        self._engine = _sqlite_engine(self.file) if self.file is not None else _server_engine(url or "")
        self._pid = os.getpid()

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def close(self) -> None:
        self._own_engine().dispose()

    def identity(self) -> str | None:
        """Return the UUID of the store that the catalogue is of, None where it has no tables."""
        with typed_errors(self.location), self._own_engine().connect() as connection:
            if not sa.inspect(connection).has_table("history"):
                return None
            uuid = connection.scalar(sa.text("SELECT subject FROM history WHERE number = 1"))
            return None if uuid is None else str(uuid)

    @contextmanager
    def snapshot(self) -> Iterator[Select]:
        """Read within one consistent state."""
        with typed_errors(self.location), self._own_engine().begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield select_in(connection)

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Change the catalogue, all or nothing."""
        with (
            typed_errors(self.location),
            self._queued(),
            self._own_engine().execution_options(write=True).begin() as connection,
        ):
            if not self.is_sqlite:
                # One that stands still within its transaction is ended by the server, and the next goes on.
                connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {1000 * IDLE_S:.0f}")
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {1000 * LOCK_S:.0f}")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({QUEUE})")
            yield connection

    @contextmanager
    def _queued(self) -> Iterator[None]:
        # SQLite's writers poll for its lock with growing sleeps, so that of sixteen most sleep while it is free.
        # The kernel's file lock wakes the next at once. It only orders them: SQLite's own lock protects the data.
        if self.file is None or self._lock is None:
            yield
            return
        self.file.identify()  # first, as no lock must be made where the store was
        with self._lock.held(limit_s=LOCK_S):
            yield

    def _own_engine(self) -> sa.Engine:
        if self._pid != os.getpid():
            self._engine.dispose(close=False)  # a fork must not use, nor close, the connections of its parent
            self._pid = os.getpid()
        return self._engine


def select_in(connection: sa.Connection) -> Select:
    """Return what runs queries within this transaction."""
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection):  # a tenth of the time, within the lock that bounds all writers

        def select_directly(sql: str, **parameters: object) -> Iterable[Row]:
            check_parameters(parameters)
            return driver.execute(sql, parameters)

        return select_directly

    def select(sql: str, **parameters: object) -> Iterable[Row]:
        check_parameters(parameters)
        return (tuple(row) for row in connection.execute(_text(sql), parameters))

    return select


def execute_in(connection: sa.Connection) -> Execute:
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
        address = sa.make_url(url)
        options = LIBPQ if address.get_backend_name() == "postgresql" and "psycopg" in address.get_driver_name() else {}
        own = {name: value for name, value in options.items() if name not in address.query}
        return sa.create_engine(address, pool_pre_ping=True, pool_size=4, max_overflow=16, connect_args=own)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        problem = str(error).splitlines()[0]
        raise InvalidSettingError(
            f"catalogue {url.partition(':')[0]}:… cannot be opened ({problem}): give an SQLAlchemy URL whose driver "
            "is installed, such as postgresql+psycopg://USER@HOST/NAME"
        ) from None


def _sqlite_engine(file: CatalogueFile) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file.path)),
        creator=file.connect,
        poolclass=sa.QueuePool,
        pool_size=2,
        max_overflow=30,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes its lock first: one that reads and then finds the lock taken would have to start again.
        writes = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @sa.event.listens_for(engine, "connect")
    def connected(_connection: object, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["file"] = file.identify()

    @sa.event.listens_for(engine, "checkout")
    def check_out(_connection: object, record: sa.pool.ConnectionPoolEntry, _proxy: object) -> None:
        if record.info["file"] != file.identify():
            raise sa.exc.DisconnectionError("the catalogue's file is another one now")  # the pool connects again

    return engine


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]


@contextmanager
def typed_errors(location: str) -> Iterator[None]:
    """Raise our errors for those of the driver."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreBusyError(
            f"the catalogue {location} has no free connection ({error}): wait until other work ends"
        ) from None
    except DBAPIError as error:
        raise _translate_driver(error, location) from None
    except sqlite3.Error as error:
        raise translate(error, location) from None


def _translate_driver(error: DBAPIError, location: str) -> BaseException:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return translate(cause, location)
    line = (str(cause).strip().splitlines() or ["no answer"])[0]
    if isinstance(error, sa.exc.ProgrammingError):  # a table is missing
        return IntegrityError(
            f"the catalogue {location} is damaged ({line}): restore it from a copy, or name another with `catalogue=`"
        )
    if getattr(cause, "sqlstate", None) == LOCK_NOT_AVAILABLE:
        return StoreBusyError(f"the catalogue {location} was held by another writer for {LOCK_S:g} s: try again later")
    if isinstance(error, sa.exc.DataError):
        return InvalidSettingError(f"the catalogue does not take a value of the request ({line}): give another")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return StorageError(
            f"the catalogue {location} does not answer ({line}): check that the database runs and is reachable"
        )
    return error
