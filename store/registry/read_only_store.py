"""A store open for reading: find versions by name, list them, and get back exactly the bytes that went in.

With a catalogue in SQLite this needs neither a database library nor a tensor library: what only reads starts fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from store.adapters.backbone_fingerprint import Fingerprints
from store.backends.base import Backend
from store.backends.blobs import Blobs
from store.errors import (
    BackboneNotFoundError,
    IntegrityError,
    InvalidSettingError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.queries.reader import Queries
from store.queries.references import read_backbone_record, read_manifest, references_to
from store.queries.sqlite import SqliteRows
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.events import LATEST
from store.records.listing import VersionRow
from store.records.manifest import Manifest
from store.records.refs import BACKBONE_NAME, Ref, check_name, suggest
from store.records.version import Version
from store.registry.catalogue_reader import CatalogueReader


class ReadOnlyStore(CatalogueReader):
    """Read a store; made by `open`."""

    def __init__(self, backend: Backend, reader: Queries, *, read_only: bool, rows: SqliteRows | None) -> None:
        super().__init__(backend, reader, read_only=read_only, rows=rows)
        self.blobs = Blobs(backend)
        self.fingerprints = Fingerprints()

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
        return [self._version(row) for row in self.queries.versions(task, removed=removed)]

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of the blob; raise `IntegrityError` unless they are those that were published."""
        with self._naming(blob):
            return self.blobs.get(blob)

    @contextmanager
    def viewing(self, *blobs: Blob) -> Iterator[tuple[memoryview, ...]]:
        """Give the bytes of the blobs as `Blobs.viewing` does: nothing made of them counts before the block ends."""
        with self._naming(*blobs), self.blobs.viewing(*blobs) as views:
            yield views

    def backbone(self, name_or_fingerprint: str) -> BackboneRecord:
        row = self.queries.backbone(name_or_fingerprint) if BACKBONE_NAME.fullmatch(name_or_fingerprint) else None
        if row is None:
            names = [known.name for known in self.queries.backbones()]
            raise BackboneNotFoundError(
                f"no backbone {name_or_fingerprint[:140]!r} in {self.url}: {suggest(name_or_fingerprint, names)}; "
                "add it with `onetrunk backbone add NAME`"
            )
        return read_backbone_record(self.blobs, row)

    def backbones(self) -> list[BackboneRecord]:
        return [read_backbone_record(self.blobs, row) for row in self.queries.backbones()]

    @contextmanager
    def _naming(self, *blobs: Blob) -> Iterator[None]:
        """Begin the message of an `IntegrityError` with a version or a backbone that the blobs belong to."""
        try:
            yield
        except IntegrityError as error:
            damaged = [blob for blob in blobs if blob.sha256 in str(error)]
            used = [str(use) for blob in damaged for use in references_to(blob, self.queries, self.blobs)]
            raise IntegrityError(f"{used[0]}: {error}" if used else str(error)) from None

    def _find(self, wanted: Ref, alias: str | None) -> VersionRow | None:
        return self.queries.find(wanted.task, version=wanted.version, digest=wanted.digest, alias=alias)

    def _row_at(self, task: str, alias: str, at: str) -> VersionRow:
        number = self.queries.version_at(check_name(task, "task"), alias, at)
        if number is None:
            raise VersionNotFoundError(f"{task}@{alias} named nothing at {at}: see `onetrunk history {task}`")
        row = next((row for row in self.queries.versions(task, removed=True) if row.version == number), None)
        if row is None:
            digest = self.queries.digest_at(task, number)
            raise VersionNotFoundError(
                f"{task}@{alias} named {task}:{number} (sha256:{digest}) at {at}, which has been removed and freed"
            )
        return row

    def _unknown(self, ref: str, task: str) -> VersionNotFoundError | TaskNotFoundError:
        rows = self.queries.versions(task)
        if not rows:
            return self._no_task(task)
        named = sorted({name for row in rows for name in row.aliases})
        numbers = ", ".join(str(row.version) for row in rows[-10:])
        return VersionNotFoundError(
            f"no {ref[:200]!r}: {task} has versions {numbers} and aliases {', '.join(named)}; name one of these"
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
