"""A store open for reading: find versions by name, and read back exactly the bytes that were published.

With a catalogue in SQLite this needs neither a database library nor a tensor library, so reading starts fast.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from store.adapters.backbone_fingerprint import Fingerprints
from store.backends.base import Backend
from store.backends.blobs import NO_DIGESTS, Blobs
from store.errors import (
    BackboneNotFoundError,
    IntegrityError,
    InvalidSettingError,
    ReadOnlyStoreError,
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
from store.records.refs import BACKBONE_NAME, Ref, check_name, plural, suggest
from store.records.version import Version
from store.registry.catalogue_reader import CatalogueReader

MOST_SHARED, SHARED_NBYTES = 1024, 8192  # blobs that are remembered, and the bytes of one


@dataclass(frozen=True)
class BackboneUsage:
    """How many versions use a backbone, removed ones too, and the bytes of blobs that it alone references."""

    versions: int
    own_nbytes: int


@dataclass(frozen=True)
class AliasTarget:
    """The version that an alias pointed at, and the digest that its number was published with."""

    alias: str
    version: int
    digest: str | None


class ReadOnlyStore(CatalogueReader):
    """Read a store; made by `open`."""

    def __init__(self, backend: Backend, queries: Queries, *, read_only: bool, rows: SqliteRows | None) -> None:
        super().__init__(backend, queries, read_only=read_only, rows=rows)
        self.blobs = Blobs(backend)
        self._shared: OrderedDict[Blob, bytes] = OrderedDict()
        self.fingerprints = Fingerprints()

    def check_writable(self) -> None:
        """Raise `ReadOnlyStoreError`."""
        raise ReadOnlyStoreError(f"{self.url} was opened to read alone: open it with `open_store(url)`")

    def resolve(self, ref: str, *, at: str | None = None, known: Version | None = None) -> Version:
        """Find `task` (its latest), `task@alias`, `task:3` or `task@sha256:…`; `at` is when to look up the alias.

        Where it still is the version `known`, its manifest is not read again.
        """
        parsed = Ref.parse(ref)
        alias = parsed.alias or (None if parsed.version or parsed.digest else LATEST)
        if at is not None and alias is not None:
            return self._version(self._row_at(parsed.task, alias, parse_time(at)))
        row = self._find(parsed, alias)
        if known is not None and row is not None and row.manifest == known.manifest_blob:
            return version_of(row, known.manifest)
        while row is not None:
            try:
                return self._version(row)
            except IntegrityError:
                # It may have been removed and freed between the two reads: then nothing is damaged.
                before, row = row.manifest, self._find(parsed, alias)
                if row is not None and row.manifest == before:
                    raise
        raise self._unknown(ref, parsed.task)

    def versions(self, task: str | None = None, *, removed: bool = False) -> list[Version]:
        """Return every version of every task, or of one, by task and number."""
        if task is not None:
            self.require_task(task, removed=removed)
        return [self._version(row) for row in self.queries.versions(task, removed=removed)]

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of the blob; raise `IntegrityError` unless they are those that were published."""
        with self._naming(blob):
            return self.blobs.get(blob)

    def read_shared(self, blob: Blob) -> bytes:
        """Do what `read` does, and remember the bytes where they are few: of what many versions have in common."""
        if (known := self._shared.get(blob)) is not None:
            return known
        data = self.read(blob)
        if len(data) <= SHARED_NBYTES:
            self._shared[blob] = data
            while len(self._shared) > MOST_SHARED:
                self._shared.popitem(last=False)
        return data

    @contextmanager
    def viewing(self, *blobs: Blob, blake3: Mapping[Blob, str] = NO_DIGESTS) -> Iterator[tuple[memoryview, ...]]:
        """Give views of the blobs as `Blobs.viewing` does: results count only once the block has ended."""
        with self._naming(*blobs), self.blobs.viewing(*blobs, blake3=blake3) as views:
            yield views

    def backbone(self, name_or_fingerprint: str) -> BackboneRecord:
        row = self.queries.backbone(name_or_fingerprint) if BACKBONE_NAME.fullmatch(name_or_fingerprint) else None
        if row is None:
            names = [known.name for known in self.queries.backbones()]
            raise BackboneNotFoundError(
                f"no backbone {name_or_fingerprint[:140]!r} in {self.url}: {suggest(name_or_fingerprint, names)}; "
                "add it with `adopt_backbone(store, name)`"
            )
        return read_backbone_record(self.blobs, row)

    def backbones(self) -> list[BackboneRecord]:
        return [read_backbone_record(self.blobs, row) for row in self.queries.backbones()]

    def backbone_usage(self, name_or_fingerprint: str) -> BackboneUsage:
        """Return what removing a backbone depends on; raise `BackboneNotFoundError` where there is none."""
        record = self.backbone(name_or_fingerprint)
        blobs = self.queries.backbone_blobs()
        own = {blob for owner, blob in blobs if owner == record.name} - {b for o, b in blobs if o != record.name}
        users = sum(row.backbone == record.id.fingerprint for row in self.queries.versions(removed=True))
        return BackboneUsage(users, sum(blob.nbytes for blob in own))

    def aliases_at(self, task: str, at: str) -> list[AliasTarget]:
        """Return where the aliases of a task pointed at a time (ISO 8601), by name."""
        when = parse_time(at)
        names = sorted({event.alias for event in self.queries.history(task) if event.alias is not None})
        targets = ((alias, self.queries.version_at(task, alias, when)) for alias in names)
        return [
            AliasTarget(alias, number, self.queries.digest_at(task, number))
            for alias, number in targets
            if number is not None
        ]

    @contextmanager
    def _naming(self, *blobs: Blob) -> Iterator[None]:
        """Begin the message of an `IntegrityError` with a version or backbone that references the damaged blob."""
        self.queries.check_open()
        try:
            yield
        except IntegrityError as error:
            damaged = [blob for blob in blobs if blob.sha256 in str(error)]
            owners = [str(use) for blob in damaged for use in references_to(blob, self.queries, self.blobs)]
            raise IntegrityError(f"{owners[0]}: {error}" if owners else str(error)) from None

    def _find(self, ref: Ref, alias: str | None) -> VersionRow | None:
        return self.queries.find(ref.task, version=ref.version, digest=ref.digest, alias=alias)

    def _row_at(self, task: str, alias: str, at: str) -> VersionRow:
        number = self.queries.version_at(check_name(task, "task"), alias, at)
        if number is None:
            raise VersionNotFoundError(f"{task}@{alias} pointed at no version at {at}: see `store.history(task)`")
        row = next((row for row in self.queries.versions(task, removed=True) if row.version == number), None)
        if row is None:
            digest = self.queries.digest_at(task, number)
            raise VersionNotFoundError(
                f"{task}@{alias} pointed at {task}:{number} (sha256:{digest}) at {at}, "
                "which has been removed and freed: publish it again"
            )
        return row

    def _unknown(self, ref: str, task: str) -> VersionNotFoundError | TaskNotFoundError:
        rows = self.queries.versions(task)
        if not rows:
            return self._no_task(task)
        aliases = sorted({name for row in rows for name in row.aliases})
        numbers = ", ".join(str(row.version) for row in rows[-10:])
        return VersionNotFoundError(
            f"no {ref[:200]!r}: {task} has {plural('version', rows)} {numbers} and "
            f"{plural('alias', aliases)} {', '.join(aliases) or 'none'}; name one of these"
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
    """Return the time as the history writes it: ISO 8601 in UTC, with milliseconds. A time without a zone is in UTC."""
    try:
        time = datetime.fromisoformat(text)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidSettingError(
            f"time {text[:40]!r} is not ISO 8601: write 2026-03-01 or 2026-03-01T12:30:00+01:00"
        ) from None
    return time.isoformat(timespec="milliseconds")
