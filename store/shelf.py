"""A store open for reading: find versions by name, list them, and get back exactly the bytes that went in.

With a catalogue in SQLite this needs neither a database library nor a tensor library: what only reads starts fast.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from store.backend import Backend
from store.blobs import Blobs
from store.errors import (
    BackboneNotFoundError,
    ConflictError,
    IntegrityError,
    InvalidSettingError,
    NewerFormatError,
    OlderFormatError,
    StoreNotFoundError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.events import LATEST, OF_TASKS, AliasRule, Event
from store.fingerprint import Fingerprints
from store.identity import STORE_FORMAT, identity_format, read_identity
from store.journal import Journal
from store.layout import BLOBS, CATALOGUE, JOURNAL
from store.places import open_backend
from store.reader import CATALOGUE_FORMAT, Lease, Listed, Page, Reader, Search, VersionRow
from store.records import BACKBONE_NAME, BackboneRecord, Blob, Manifest, check_name
from store.refs import Ref, suggest, tenant_of
from store.sqlite import SqliteRows
from store.uses import read_backbone_record, read_manifest, uses_of
from store.version import Version

SQLITE = "sqlite:"
REMEDY = "restore it from a copy, or move it away and `onetrunk rebuild`"


class Shelf:
    """Read a store; made by `open`."""

    def __init__(self, backend: Backend, reader: Reader, *, read_only: bool, rows: SqliteRows | None) -> None:
        self.backend = backend
        self.blobs = Blobs(backend)
        self.fingerprints = Fingerprints()
        self.reader = reader
        self.read_only = read_only
        self._sqlite = rows

    @classmethod
    def open(cls, root: str | Path, *, catalogue: str | None = None) -> Self:
        """Open the store at this address; `catalogue` may be the URL of an SQLite file."""
        backend = open_backend(root)
        identity = read_identity(backend)
        check_format(backend)
        path = catalogue_path(backend, catalogue)
        if path is None:
            raise InvalidSettingError("a catalogue on a server is read through `Store.open`")
        check_catalogue(backend, path)
        read_only = not may_write(backend, path)
        rows = SqliteRows(path, read_only=read_only)
        reader = Reader(rows.snapshot)
        check_reader(reader, backend, identity, str(path))
        return cls(backend, reader, read_only=read_only, rows=rows)

    @property
    def url(self) -> str:
        return self.backend.url

    def catalogue_problems(self) -> list[str]:
        """Return what is wrong with the catalogue's own file or format, before what it says is looked at."""
        found = self.reader.format()
        wrong = [] if found == CATALOGUE_FORMAT else [f"its format is {found}, expected {CATALOGUE_FORMAT}"]
        return wrong + (self._sqlite.problems() if self._sqlite is not None else [])

    def rest(self) -> None:
        """Close this thread's connections, which folds SQLite's log into its file; the next question opens one."""
        if self._sqlite is not None:
            self._sqlite.close()

    def close(self) -> None:
        self.rest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resolve(self, ref: str, *, at: str | None = None) -> Version:
        """Find `task` (its latest), `task@alias`, `task:3` or `task@sha256:…`; with `at`, what an alias named then."""
        wanted = Ref.parse(ref)
        alias = wanted.alias or (None if wanted.version or wanted.digest else LATEST)
        if at is not None and alias is not None:
            return self._version(self._row_at(wanted.task, alias, parse_time(at)))
        row = self._find(wanted, alias)
        while row is not None:
            try:
                return self._version(row)
            except IntegrityError:
                # It may have been removed and freed between the two looks: then this is no damage.
                before, row = row.manifest, self._find(wanted, alias)
                if row is not None and row.manifest == before:
                    raise
        raise self._unknown(ref, wanted.task)

    def versions(self, task: str | None = None, *, removed: bool = False) -> list[Version]:
        """Return every version of every task, or of one, by task and number."""
        if task is not None:
            self.require_task(task, removed=removed)
        return [self._version(row) for row in self.reader.versions(task, removed=removed)]

    def page(self, *, search: Search | None = None, after: str | None = None, limit: int = 50) -> Page:
        """List one version a task: the one that `latest` names, or the alias searched for."""
        if limit < 1:
            raise InvalidSettingError(f"limit {limit} lists nothing: use at least 1")
        return self.reader.page(search or Search(), after=after, limit=limit)

    def listed(self, task: str, *, removed: bool = False) -> tuple[Listed, ...]:
        """List every version of one task."""
        self.require_task(task, removed=removed)
        return self.reader.listed(task, removed=removed)

    def aliases(self, task: str) -> dict[str, int]:
        self.require_task(task)
        return self.reader.aliases(task)

    def rules(self, task: str | None = None) -> list[AliasRule]:
        return self.reader.rules(task)

    def tags(self, task: str, version: int | None = None) -> dict[str, str]:
        """Return the tags of a version, or those of the task itself."""
        self.require_task(task)
        return self.reader.tags(task, version or 0)

    def leases(self) -> list[Lease]:
        return self.reader.leases(now_s=time.time())

    def history(self, task: str) -> list[Event]:
        """Return what happened to a task, oldest first; one that was purged still has its history."""
        events = [e for e in self.reader.history(check_name(task, "task")) if e.action in OF_TASKS]
        if not events:
            self.require_task(task)
        return events

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of the blob; raise `IntegrityError` unless they are those that were published."""
        try:
            return self.blobs.get(blob)
        except IntegrityError as error:
            used = [str(use) for use in uses_of(blob, self.reader, self.blobs)]
            raise IntegrityError(f"{used[0]}: {error}" if used else str(error)) from None

    def backbone(self, name_or_fingerprint: str) -> BackboneRecord:
        row = self.reader.backbone(name_or_fingerprint) if BACKBONE_NAME.fullmatch(name_or_fingerprint) else None
        if row is None:
            names = [known.name for known in self.reader.backbones()]
            raise BackboneNotFoundError(
                f"no backbone {name_or_fingerprint[:140]!r} in {self.url}: {suggest(name_or_fingerprint, names)}; "
                "add it with `onetrunk backbone add NAME`"
            )
        return read_backbone_record(self.blobs, row)

    def backbones(self) -> list[BackboneRecord]:
        return [read_backbone_record(self.blobs, row) for row in self.reader.backbones()]

    def require_task(self, task: str, *, removed: bool = False) -> None:
        """Raise `TaskNotFoundError` unless the task has a version."""
        if not self.reader.has_task(check_name(task, "task"), removed=removed):
            raise self._no_task(task)

    def _find(self, wanted: Ref, alias: str | None) -> VersionRow | None:
        return self.reader.find(wanted.task, version=wanted.version, digest=wanted.digest, alias=alias)

    def _row_at(self, task: str, alias: str, at: str) -> VersionRow:
        number = self.reader.version_at(check_name(task, "task"), alias, at)
        if number is None:
            raise VersionNotFoundError(f"{task}@{alias} named nothing at {at}: see `onetrunk history {task}`")
        row = next((row for row in self.reader.versions(task, removed=True) if row.version == number), None)
        if row is None:
            digest = self.reader.digest_at(task, number)
            raise VersionNotFoundError(
                f"{task}@{alias} named {task}:{number} (sha256:{digest}) at {at}, which has been removed and freed"
            )
        return row

    def _unknown(self, ref: str, task: str) -> VersionNotFoundError | TaskNotFoundError:
        rows = self.reader.versions(task)
        if not rows:
            return self._no_task(task)
        named = sorted({name for row in rows for name in row.aliases})
        numbers = ", ".join(str(row.version) for row in rows[-10:])
        return VersionNotFoundError(
            f"no {ref[:200]!r}: {task} has versions {numbers} and aliases {', '.join(named)}; name one of these"
        )

    def _no_task(self, task: str) -> TaskNotFoundError:
        return TaskNotFoundError(
            f"no task {task!r} in {self.url}: {suggest(task, self.reader.tasks(tenant_of(task)))}; see `onetrunk ls`"
        )

    def _version(self, row: VersionRow) -> Version:
        return version_of(row, read_manifest(self.blobs, row))


def version_of(row: VersionRow, manifest: Manifest) -> Version:
    return Version(
        row.task,
        row.version,
        row.manifest.sha256,
        row.published_at,
        row.aliases,
        manifest,
        row.manifest.nbytes,
        row.removed_at,
    )


def catalogue_path(backend: Backend, catalogue: str | None) -> Path | None:
    """Return the SQLite file of the catalogue, None where it is on a server."""
    if catalogue is None:
        if backend.remote:
            raise InvalidSettingError(
                f"the store {backend.url} lies in a bucket and has no place for a catalogue: name one with "
                "--catalogue postgresql+psycopg://USER@HOST/NAME, or sqlite:///FILE for this machine alone"
            )
        return Path(backend.locate(CATALOGUE))
    if not catalogue.startswith(SQLITE):
        return None
    path = catalogue.removeprefix(SQLITE).removeprefix("///")
    if not path or path.startswith("/" * 2) or "?" in path:
        raise InvalidSettingError(f"catalogue {catalogue!r} names no file: write sqlite:///FILE")
    return Path(path)


def check_format(backend: Backend) -> None:
    found = identity_format(backend)
    if found < STORE_FORMAT:
        raise OlderFormatError(
            f"{backend.url} has format {found}, this onetrunk works on {STORE_FORMAT}: stop older onetrunks that use "
            "it, then run `onetrunk migrate` once"
        )


def check_catalogue(backend: Backend, path: Path) -> None:
    """Raise unless the file is there: a store that has lost it must not begin a new one."""
    if path.exists():
        return
    content = has_content(backend)
    if path.exists():  # another process has made it since
        return
    if content:
        raise IntegrityError(f"{path} is missing: restore it from a copy of the store, or run `onetrunk rebuild`")
    raise _unfinished(backend)


def _unfinished(backend: Backend) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"the store at {backend.url} has never been finished: make it with `onetrunk demo` or "
        "`onetrunk publish TASK DIR`"
    )


def check_new(backend: Backend, place: str) -> None:
    """Raise where a catalogue without tables cannot be of a store that nobody has used."""
    if has_content(backend):
        raise IntegrityError(
            f"the catalogue {place} is empty, and {backend.url} has a history: name its own catalogue, restore it from "
            "a copy, or run `onetrunk rebuild`"
        )


def has_content(backend: Backend) -> bool:
    return any(True for folder in (JOURNAL, BLOBS) for _ in backend.walk(folder))


def check_reader(reader: Reader, backend: Backend, identity: str, place: str) -> None:
    """Raise unless the catalogue is in the format that is read, of this store, and no old copy."""
    try:
        found = reader.format()
    except IntegrityError:
        if has_content(backend):
            raise
        raise _unfinished(backend) from None  # whoever made it died before its first tables
    if found > CATALOGUE_FORMAT:
        raise NewerFormatError(
            f"the catalogue {place} has format {found}, this onetrunk reads up to {CATALOGUE_FORMAT}: upgrade onetrunk"
        )
    if found < CATALOGUE_FORMAT:
        raise IntegrityError(f"the catalogue {place} has format {found}, expected {CATALOGUE_FORMAT}: {REMEDY}")
    known = reader.identity()
    if known != identity:
        raise ConflictError(f"the catalogue {place} is of store {known}, not of {identity}: name its own one")
    Journal(backend, reader).check_last()


def may_write(backend: Backend, path: Path | None) -> bool:
    places = [] if path is None else [path, path.parent] if path.exists() else [_nearest(path.parent)]
    effective = os.access in os.supports_effective_ids
    return backend.writable and all(os.access(place, os.W_OK, effective_ids=effective) for place in places)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def parse_time(text: str) -> str:
    """Return a time as the history writes it: ISO 8601 in UTC; without a zone, UTC is meant."""
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidSettingError(
            f"time {text[:40]!r} is not ISO 8601: write 2026-03-01 or 2026-03-01T12:30:00+01:00"
        ) from None
    return found.isoformat(timespec="milliseconds")
