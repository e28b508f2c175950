"""Publish versions of tasks, find them by name, and get back exactly the bytes that went in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from store.audit import Finding, audit
from store.blobs import FolderBlobs
from store.catalogue import LATEST, BackboneRow, Catalogue, Event, VersionRow
from store.checkpoint import Checkpoint, check, read_checkpoint
from store.errors import (
    BackboneMismatchError,
    BackboneNotFoundError,
    ConflictError,
    IntegrityError,
    ReadOnlyStoreError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.files import Layout, make_folder
from store.manifests import compose, decompose
from store.records import BackboneRecord, Blob, Manifest, canonical_json, check_name
from store.refs import Ref, suggest
from store.tensors import check_tensors
from store.uses import read_backbone_record, read_manifest, uses

__all__ = ["Event", "Finding", "Store", "Version"]


@dataclass(frozen=True)
class Version:
    """One immutable version of a task; `published_at` is ISO 8601 in UTC, `manifest_nbytes` the manifest's own size."""

    task: str
    version: int
    digest: str
    published_at: str
    aliases: tuple[str, ...]
    manifest: Manifest
    manifest_nbytes: int

    @property
    def manifest_blob(self) -> Blob:
        return Blob(self.digest, self.manifest_nbytes)

    @property
    def nbytes(self) -> int:
        """What the version takes at rest, a blob that it names twice counted once."""
        return self.manifest_nbytes + sum(blob.nbytes for blob in set(self.manifest.blobs))


class Store:
    """A store in a folder; made by `open`."""

    def __init__(self, layout: Layout, catalogue: Catalogue, *, read_only: bool) -> None:
        self.root = layout.root
        self.layout = layout
        self.read_only = read_only
        self.blobs = FolderBlobs(layout)
        self.catalogue = catalogue

    @classmethod
    def open(cls, root: str | Path, *, create: bool = False, catalogue: str | None = None) -> Self:
        """Open the store in this folder, for reading alone where it cannot be written; `catalogue` is an URL."""
        layout = Layout(Path(root))
        identity = layout.create() if create else layout.identity()
        read_only = not layout.writable
        if catalogue is None and not layout.catalogue.exists() and (not create or layout.has_blobs):
            raise IntegrityError(f"{layout.catalogue} is missing: restore it from a copy of the store")
        names = Catalogue(layout, url=catalogue, read_only=read_only)
        if create and not read_only:
            names.create(identity)
        names.check_identity(identity)
        return cls(layout, names, read_only=read_only)

    def close(self) -> None:
        self.catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_backbone(self, record: BackboneRecord, weights: bytes | None) -> BackboneRecord:
        """Keep the backbone, its weights too unless None, and return what is kept.

        A fingerprint that is known keeps its name, and its weights if it has them.
        """
        self._check_writable()
        known = self._find_backbone(record.id.fingerprint)
        if known is not None and (known.weights is not None or weights is None):
            return known
        name = known.name if known is not None else record.name
        self.catalogue.check_backbone_name(name, record.id.fingerprint)
        if weights is not None:
            check_tensors(weights, f"weights of backbone {record.name}")
        blob = None if weights is None else self.blobs.put(weights)
        kept = dataclasses.replace(record, name=name, weights=blob)
        kept_as = self.blobs.put(canonical_json(dataclasses.asdict(kept)))
        self.catalogue.put_backbone(BackboneRow(name, kept.id.fingerprint, kept_as))
        return kept

    def backbone(self, name_or_fingerprint: str) -> BackboneRecord:
        record = self._find_backbone(name_or_fingerprint)
        if record is None:
            names = [row.name for row in self.catalogue.backbones()]
            raise BackboneNotFoundError(
                f"no backbone {name_or_fingerprint[:140]!r} in {self.root}: {suggest(name_or_fingerprint, names)}; "
                "add it with `onetrunk backbone add NAME`"
            )
        return record

    def backbones(self) -> list[BackboneRecord]:
        return [read_backbone_record(self.blobs, row.record) for row in self.catalogue.backbones()]

    def publish(
        self,
        task: str,
        folder: Path,
        *,
        backbone: str | None = None,
        depth: int | None = None,
        aliases: tuple[str, ...] = (),
    ) -> Version:
        """Make the folder a version of the task, once all of it is checked and on disk, and point `latest` at it.

        `backbone` and `depth` stand for `onetrunk.json`. The same content again is the same version.
        """
        self._check_writable()
        check_name(task, "task")
        for alias in aliases:
            check_name(alias, "alias")
        checkpoint = read_checkpoint(folder)
        record = self._backbone_of(checkpoint, folder, backbone)
        depth = depth if depth is not None else _default_depth(checkpoint, record)
        fit = check(checkpoint, record, depth)
        manifest = compose(task, checkpoint, fit, record, depth, self.blobs.put)
        number = self.catalogue.publish(
            task,
            self.blobs.put(manifest.to_json()),
            backbone=record.id.fingerprint,
            names=tuple(dict.fromkeys((LATEST, *aliases))),
        )
        return self.resolve(f"{task}:{number}")

    def resolve(self, ref: str) -> Version:
        """Find `task` (its latest), `task@alias`, `task:3` or `task@sha256:…`."""
        wanted = Ref.parse(ref)
        rows = self._rows(wanted.task)
        alias = wanted.alias or (None if wanted.version or wanted.digest else LATEST)
        for row in rows:
            if row.version == wanted.version or row.manifest.sha256 == wanted.digest or alias in row.aliases:
                return self._version(row)
        named = sorted({name for row in rows for name in row.aliases})
        numbers = ", ".join(str(row.version) for row in rows[-10:])
        raise VersionNotFoundError(
            f"no {ref[:200]!r}: {wanted.task} has versions {numbers} and aliases {', '.join(named)}; name one of these"
        )

    def versions(self, task: str | None = None) -> list[Version]:
        """Return every version of every task, or of one, by task and number."""
        rows = self.catalogue.versions() if task is None else self._rows(task)
        return [self._version(row) for row in rows]

    def set_alias(self, task: str, alias: str, version: int) -> None:
        self._check_writable()
        check_name(alias, "alias")
        self.catalogue.set_alias(task, alias, self.resolve(f"{task}:{version}").version)

    def aliases(self, task: str) -> dict[str, int]:
        return {name: row.version for row in self._rows(task) for name in row.aliases}

    def history(self, task: str) -> list[Event]:
        self._rows(task)
        return self.catalogue.history(task)

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of the blob; raise `IntegrityError` unless they are those that were published."""
        try:
            return self.blobs.get(blob)
        except IntegrityError as error:
            used = [str(use) for use in uses(self.catalogue, self.blobs) if use.blob == blob]
            raise IntegrityError(f"{used[0]}: {error}" if used else str(error)) from None

    def export(self, ref: str, folder: Path) -> Path:
        """Write the version as a folder that PEFT loads and `publish` takes; the folder must be new or empty."""
        manifest = self.resolve(ref).manifest
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConflictError(f"{folder} exists and is not an empty folder: choose a new one")
        contents = decompose(manifest, self.read)
        make_folder(folder)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    def verify(self) -> list[Finding]:
        """Check every digest and every record, and the history from its start."""
        return audit(self.catalogue, self.blobs, self.layout)

    def _backbone_of(self, checkpoint: Checkpoint, folder: Path, name: str | None) -> BackboneRecord:
        wanted = name or (checkpoint.card.backbone if checkpoint.card else None)
        if wanted is None:
            names = ", ".join(row.name for row in self.catalogue.backbones()) or "none yet"
            raise BackboneMismatchError(
                f"{folder} does not say its backbone, and PEFT keeps none: "
                f"name it with --backbone; the store has {names}"
            )
        return self.backbone(wanted)

    def _find_backbone(self, name_or_fingerprint: str) -> BackboneRecord | None:
        rows = self.catalogue.backbones()
        found = [row for row in rows if name_or_fingerprint in (row.name, row.fingerprint)]
        return read_backbone_record(self.blobs, found[0].record) if found else None

    def _rows(self, task: str) -> list[VersionRow]:
        rows = self.catalogue.versions(check_name(task, "task"))
        if not rows:
            names = {row.task for row in self.catalogue.versions()}
            raise TaskNotFoundError(f"no task {task!r} in {self.root}: {suggest(task, names)}; see `onetrunk ls`")
        return rows

    def _version(self, row: VersionRow) -> Version:
        manifest = read_manifest(self.blobs, row)
        return Version(
            row.task, row.version, row.manifest.sha256, row.published_at, row.aliases, manifest, row.manifest.nbytes
        )

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyStoreError(f"{self.root} is read-only for this user: make it writable, or work on a copy")


def _default_depth(checkpoint: Checkpoint, record: BackboneRecord) -> int:
    return checkpoint.card.prune_index.depth if checkpoint.card else record.blocks
