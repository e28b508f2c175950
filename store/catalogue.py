"""What exists and by which names: versions, aliases, backbones, and a history that nobody can quietly rewrite."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError as CollisionError

from store.database import connect_engine, make_file, typed
from store.errors import ConflictError
from store.files import Layout
from store.records import Blob, canonical_json
from store.schema import aliases, backbones, history, schema, versions

T = TypeVar("T")

ATTEMPTS = 20  # PostgreSQL: two that publish at once collide on a number, and the later one takes the next
LATEST = "latest"


@dataclass(frozen=True)
class BackboneRow:
    name: str
    fingerprint: str
    record: Blob


@dataclass(frozen=True)
class VersionRow:
    task: str
    version: int
    manifest: Blob
    published_at: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """One change; `subject` is the task or the backbone, `previous` the digest of the event before it."""

    number: int
    at: str
    action: str
    subject: str
    version: int | None
    alias: str | None
    digest: str | None
    previous: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()


class Catalogue:
    def __init__(self, layout: Layout, *, url: str | None, read_only: bool) -> None:
        self._place = url.rpartition("@")[2] if url else str(layout.catalogue)  # no password in a message
        self._engine = connect_engine(layout, url=url, read_only=read_only)

    def close(self) -> None:
        self._engine.dispose()

    def create(self, identity: str) -> None:
        """Make the tables; the first event ties them to the store of this identity."""
        make_file(self._engine)

        def change(connection: sa.Connection) -> None:
            schema.create_all(connection)
            if _last_event(connection) is None:
                _record(connection, action="create", subject=identity)

        self._write(change)

    def check_identity(self, identity: str) -> None:
        with self._read() as connection:
            found = connection.scalar(sa.select(history.c.subject).where(history.c.number == 1))
        if found != identity:
            raise ConflictError(f"the catalogue {self._place} is of store {found}, not of {identity}: name its own one")

    def backbones(self) -> list[BackboneRow]:
        with self._read() as connection:
            rows = connection.execute(sa.select(backbones).order_by(backbones.c.name)).all()
        return [BackboneRow(row.name, row.fingerprint, Blob(row.record, row.record_nbytes)) for row in rows]

    def check_backbone_name(self, name: str, fingerprint: str) -> None:
        """Raise `ConflictError` where another backbone has the name."""
        with self._read() as connection:
            _holder_of(connection, name, fingerprint)

    def put_backbone(self, row: BackboneRow) -> None:
        """Add the backbone, or give the one of this fingerprint and name another record."""

        def change(connection: sa.Connection) -> None:
            taken = _holder_of(connection, row.name, row.fingerprint)
            record = {"record": row.record.sha256, "record_nbytes": row.record.nbytes}
            if taken is None:
                connection.execute(backbones.insert().values(name=row.name, fingerprint=row.fingerprint, **record))
            else:
                connection.execute(backbones.update().where(backbones.c.name == row.name).values(**record))
            _record(connection, action="backbone", subject=row.name, digest=row.record.sha256)

        self._write(change)

    def versions(self, task: str | None = None) -> list[VersionRow]:
        """Return every version, or those of one task, by task and number."""
        chosen = sa.true() if task is None else versions.c.task == task
        with self._read() as connection:
            rows = connection.execute(
                sa.select(versions).where(chosen).order_by(versions.c.task, versions.c.version)
            ).all()
            named = connection.execute(sa.select(aliases).order_by(aliases.c.alias)).all()
        names = defaultdict(list)
        for alias in named:
            names[alias.task, alias.version].append(alias.alias)
        return [
            VersionRow(r.task, r.version, Blob(r.digest, r.nbytes), r.published_at, tuple(names[r.task, r.version]))
            for r in rows
        ]

    def publish(self, task: str, manifest: Blob, *, backbone: str, names: tuple[str, ...]) -> int:
        """Return the version of this manifest, a new one unless the task has it, and point the aliases at it."""

        def change(connection: sa.Connection) -> int:
            known = (versions.c.task == task) & (versions.c.digest == manifest.sha256)
            number = connection.scalar(sa.select(versions.c.version).where(known))
            if number is None:
                number = _next_version(connection, task)
                row = {
                    "digest": manifest.sha256,
                    "nbytes": manifest.nbytes,
                    "backbone": backbone,
                    "published_at": _now(),
                }
                connection.execute(versions.insert().values(task=task, version=number, **row))
                _record(connection, action="publish", subject=task, version=number, digest=manifest.sha256)
            for alias in names:
                _point(connection, task, alias, number)
            return number

        return self._write(change)

    def set_alias(self, task: str, alias: str, version: int) -> None:
        self._write(lambda connection: _point(connection, task, alias, version))

    def history(self, subject: str | None = None) -> list[Event]:
        """Return every event, or those of one task or backbone, oldest first."""
        chosen = sa.true() if subject is None else history.c.subject == subject
        with self._read() as connection:
            rows = connection.execute(sa.select(history).where(chosen).order_by(history.c.number)).all()
        return [Event(*row) for row in rows]

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with typed(self._place), self._engine.begin() as connection:
            yield connection

    def _write(self, change: Callable[[sa.Connection], T]) -> T:
        engine = self._engine.execution_options(write=True)
        with typed(self._place):
            for _ in range(ATTEMPTS - 1):
                try:
                    with engine.begin() as connection:
                        return change(connection)
                except CollisionError:
                    continue
            with engine.begin() as connection:
                return change(connection)


def _holder_of(connection: sa.Connection, name: str, fingerprint: str) -> str | None:
    holder = connection.scalar(sa.select(backbones.c.fingerprint).where(backbones.c.name == name))
    if holder not in (None, fingerprint):
        raise ConflictError(
            f"backbone name {name!r} is taken by fingerprint {holder}: choose another for {fingerprint}"
        )
    return holder


def _next_version(connection: sa.Connection, task: str) -> int:
    # From the history, which keeps the numbers of versions that are gone: none is given twice.
    published = (history.c.subject == task) & (history.c.action == "publish")
    return 1 + (connection.scalar(sa.select(sa.func.max(history.c.version)).where(published)) or 0)


def _point(connection: sa.Connection, task: str, alias: str, version: int) -> None:
    row = (aliases.c.task == task) & (aliases.c.alias == alias)
    current = connection.scalar(sa.select(aliases.c.version).where(row))
    if current == version:
        return
    if current is None:
        connection.execute(aliases.insert().values(task=task, alias=alias, version=version))
    else:
        connection.execute(aliases.update().where(row).values(version=version))
    _record(connection, action="alias", subject=task, version=version, alias=alias)


def _last_event(connection: sa.Connection) -> Event | None:
    row = connection.execute(sa.select(history).order_by(history.c.number.desc()).limit(1)).first()
    return None if row is None else Event(*row)


def _record(connection: sa.Connection, **columns: str | int) -> None:
    last = _last_event(connection)
    place = (
        {"number": 1, "previous": "0" * 64} if last is None else {"number": last.number + 1, "previous": last.sha256}
    )
    connection.execute(history.insert().values(at=_now(), **place, **columns))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
