"""Publish versions of tasks, move their aliases, take them away, and keep all of it accountable."""

from __future__ import annotations

import dataclasses
import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from store.adapters.checkpoint import Checkpoint, check, read_checkpoint
from store.adapters.manifests import ManifestDraft, build_manifest, restore_files
from store.adapters.safetensors_header import check_tensors
from store.backends.base import Backend
from store.backends.blobs import Blobs
from store.backends.create import create_identity
from store.backends.identity import store_uuid
from store.backends.layout import CATALOGUE
from store.backends.urls import open_backend
from store.catalogue.aliases import check_rule, rule_of
from store.catalogue.catalogue import Catalogue
from store.catalogue.database import Database
from store.catalogue.leases import PUBLISHING
from store.catalogue.removal import Removal, leaving, removal_of
from store.catalogue.versions import check_backbone_name
from store.errors import (
    BackboneMismatchError,
    ConflictError,
    IntegrityError,
    InvalidNameError,
    InvalidSettingError,
    OneTrunkError,
    ReadOnlyStoreError,
)
from store.queries.reader import Queries
from store.queries.references import read_manifest
from store.queries.sqlite import SqliteRows, make_file
from store.records.backbone import BackboneRecord
from store.records.blob import Blob, canonical_json
from store.records.events import LATEST, AliasRule, ApiKey, Event
from store.records.evidence import Certificate
from store.records.listing import Page, Search, VersionListing, VersionRow
from store.records.manifest import Manifest
from store.records.refs import Ref, check_name
from store.records.version import Version
from store.registry.journal import Journal
from store.registry.opening import (
    catalogue_path,
    check_catalogue,
    check_compatible,
    check_format,
    check_new,
    has_content,
    may_write,
)
from store.registry.read_only_store import ReadOnlyStore, version_of

__all__ = ["Event", "Page", "ReadOnlyStore", "Removal", "Search", "Store", "Version", "VersionListing"]

PUBLISH_S = 3600.0  # how long a publish may take from its first blob to its version


class Store(ReadOnlyStore):
    """A store open for writing too, where its user may."""

    def __init__(
        self,
        backend: Backend,
        database: Database,
        *,
        read_only: bool,
        rows: SqliteRows | None,
        actor: str | None,
    ) -> None:
        super().__init__(
            backend, Queries(rows.snapshot if rows is not None else database.snapshot), read_only=read_only, rows=rows
        )
        self.journal = Journal(backend, self.queries)
        self.catalogue = Catalogue(database, actor=actor or default_actor(), committed=self.journal.keep)

    @classmethod
    def open(
        cls, root: str | Path, *, create: bool = False, catalogue: str | None = None, actor: str | None = None
    ) -> Self:
        """Open the store at this address, for reading alone where it cannot be written.

        `catalogue` is a database URL, `actor` who the history says it was; the default is the user and the machine.
        """
        backend = open_backend(root)
        identity = create_identity(backend) if create else store_uuid(backend)
        check_format(backend)
        path = catalogue_path(backend, catalogue)
        read_only = not may_write(backend, path)
        if path is not None and not (create and not read_only and not has_content(backend)):
            check_catalogue(backend, path)
        database = Database(path, url=catalogue, read_only=read_only)
        rows = SqliteRows(path, read_only=read_only) if path is not None else None
        opened = cls(backend, database, read_only=read_only, rows=rows, actor=actor)
        if create and not read_only:
            if path is not None:
                make_file(path)
            opened.catalogue.create(identity, check=lambda: check_new(backend, database.place))
        check_compatible(opened.queries, backend, identity, database.place)
        return opened

    def with_actor(self, actor: str, *, probe_existing: bool = True) -> Self:
        """Return the same store with another name for its history; `probe_existing` is as for `Blobs`."""
        other = type(self)(
            self.backend, self.catalogue.database, read_only=self.read_only, rows=self._sqlite, actor=actor
        )
        other.blobs = Blobs(self.backend, probe_existing=probe_existing)
        return other

    @property
    def root(self) -> Path:
        """The store's folder."""
        return Path(self.backend.locate(CATALOGUE)).parent

    def release_connections(self) -> None:
        super().release_connections()
        self.catalogue.close()

    def add_backbone(self, record: BackboneRecord, weights: bytes | None) -> BackboneRecord:
        """Keep the backbone, its weights too unless None, and return what is kept.

        A fingerprint that is known keeps its name, and its weights if it has them.
        """
        self.check_writable()
        blob = None if weights is None else Blob.of(weights)
        if blob is not None and weights is not None:
            self.fingerprints.check(record, weights, sha256=blob.sha256)
            check_tensors(weights, f"weights of backbone {record.name}")
        while True:
            row = self.queries.backbone(record.id.fingerprint)
            kept = dataclasses.replace(record, name=row.name if row else record.name, weights=blob)
            encoded = canonical_json(dataclasses.asdict(kept))
            contents = {Blob.of(encoded): encoded} | ({blob: weights} if blob and weights is not None else {})
            same = row is not None and row.record == Blob.of(encoded).sha256
            if row is not None and not same:
                known = self.backbone(record.id.fingerprint)
                if known.weights is not None or weights is None:
                    return known
            check_backbone_name(self.queries, kept.name, record.id.fingerprint)
            with self._holding(contents) as lease:
                if same:  # and what was damaged of it is mended now
                    self.catalogue.release(lease)
                    return kept
                if self.catalogue.put_backbone(kept, Blob.of(encoded), seen=row, lease=lease):
                    return kept

    def publish(
        self,
        task: str,
        folder: Path,
        *,
        backbone: str | None = None,
        depth: int | None = None,
        aliases: tuple[str, ...] = (),
        force: bool = False,
    ) -> Version:
        """Make the folder a version of the task, once all of it is checked and on disk, and point `latest` at it.

        `backbone` and `depth` stand for `onetrunk.json`. The same content again is the same version.
        """
        self.check_writable()
        check_name(task, "task")
        checkpoint = read_checkpoint(folder)
        return self.publish_checkpoint(
            task, checkpoint, where=str(folder), backbone=backbone, depth=depth, aliases=aliases, force=force
        )

    def publish_checkpoint(
        self,
        task: str,
        checkpoint: Checkpoint,
        *,
        where: str,
        backbone: str | None = None,
        depth: int | None = None,
        aliases: tuple[str, ...] = (),
        force: bool = False,
    ) -> Version:
        """Do the same with files that are in memory already; `where` they came from is for messages."""
        self.check_writable()
        check_name(task, "task")
        record = self._backbone_of(checkpoint, where, backbone)
        depth = depth if depth is not None else _default_depth(checkpoint, record)
        draft = build_manifest(task, checkpoint, check(checkpoint, record, depth), record, depth)
        for alias in aliases:
            self._check_alias(task, check_name(alias, "alias"), draft, force=force)
        with self._holding(draft.contents) as lease:
            row = self.catalogue.publish(
                task, draft.entry, names=tuple(dict.fromkeys((LATEST, *aliases))), lease=lease, force=force
            )
        return version_of(row, draft.manifest)

    def set_alias(self, task: str, alias: str, version: int, *, force: bool = False) -> None:
        """Point the alias at the version; `force` moves a protected one, and no gate is opened by it."""
        self.check_writable()
        check_name(alias, "alias")
        found = self.resolve(f"{task}:{version}")
        self.catalogue.set_alias(task, alias, found.version, found.manifest.certificate, force=force)

    def remove_alias(self, task: str, alias: str, *, force: bool = False) -> None:
        self.check_writable()
        self.require_task(task)
        if alias == LATEST:
            raise InvalidNameError(f"alias {LATEST!r} is what {task!r} alone means: move it, or remove the task")
        self.catalogue.remove_alias(task, check_name(alias, "alias"), force=force)

    def set_rule(self, rule: AliasRule) -> None:
        """Say what an alias asks before it moves; a rule that asks nothing takes the old one away."""
        self.check_writable()
        if rule.task != "*":
            scope = check_name(rule.task.removesuffix("/*"), "task")
            if rule.task.endswith("/*") and "/" in scope:
                raise InvalidNameError(f"scope {rule.task!r} holds no task: write TASK, TENANT/* or *")
        if check_name(rule.alias, "alias") == LATEST:
            raise InvalidSettingError(f"alias {LATEST!r} follows every publish: set the rule of another, such as prod")
        if not 0 <= (rule.max_drop or 0) <= 100 or not 0 <= (rule.min_accuracy or 0) <= 1:
            raise InvalidSettingError(
                f"rule of {rule.alias!r}: max_drop is in points, 0 to 100, min_accuracy a share, 0 to 1; "
                f"got {rule.max_drop} and {rule.min_accuracy}"
            )
        self.catalogue.set_rule(rule)

    def rollback(self, task: str, alias: str = LATEST, *, force: bool = False) -> Version:
        """Point the alias at the version that it named before; again, at the one before that."""
        self.check_writable()
        self.require_task(task)
        read: dict[VersionRow, Manifest] = {}

        def certify(row: VersionRow) -> Certificate | None:
            read[row] = read_manifest(self.blobs, row)
            return read[row].certificate

        row = self.catalogue.rollback(task, check_name(alias, "alias"), certify, force=force)
        return version_of(row, next(iter(read.values())))

    def set_tag(self, task: str, key: str, value: str | None, *, version: int | None = None) -> None:
        """Set a tag of the task, or of one version; None takes it away."""
        self.check_writable()
        self.require_task(task)
        check_name(key, "tag")
        if value is not None and (not value.isprintable() or not 1 <= len(value) <= 300):
            raise InvalidNameError(f"tag {key!r} has value {value[:80]!r}: use 1 to 300 printable characters")
        self.catalogue.set_tag(task, version or 0, key, value)

    def remove(
        self, ref: str, *, all_versions: bool = False, dry_run: bool = False, tenant: str | None = None
    ) -> Removal:
        """Take a version away, or with `all_versions` the task; `restore` brings it back until it is collected.

        With `tenant`, the bytes freed are those that nothing else of this tenant names, whatever others do.
        """
        self.check_writable()
        task = check_name(ref, "task") if all_versions else Ref.parse(ref).task
        self.require_task(task)
        if not all_versions and ref == task:
            raise InvalidNameError(f"{ref!r} names a task: give {ref}:NUMBER, or --all-versions for the whole task")
        wanted = None if all_versions else self._wanted(ref)
        if dry_run:
            return removal_of(self.queries, task, leaving(self.queries, task, wanted), tenant=tenant)
        return self.catalogue.remove(task, wanted, tenant=tenant)

    def restore(self, task: str, version: int | None = None) -> list[int]:
        """Bring back a removed version, or all of them; return their numbers."""
        self.check_writable()
        return self.catalogue.restore(check_name(task, "task"), version)

    def remove_backbone(self, name: str) -> None:
        """Forget a backbone that no version stands on; its weights go with the next collection."""
        self.check_writable()
        record = self.backbone(name)
        self.catalogue.remove_backbone(record.id.fingerprint, record.name)

    def lease(self, digests: Iterable[str], *, holder: str, ttl_s: float, lease_id: str | None = None) -> str:
        """Hold versions by their digests, so that they cannot be removed; with `lease_id`, renew that lease."""
        self.check_writable()
        identifier = lease_id or uuid.uuid4().hex
        self.catalogue.lease(identifier, digests, holder=holder, expires_at=time.time() + ttl_s, served=True)
        return identifier

    def release(self, lease_id: str) -> None:
        self.check_writable()
        self.catalogue.release(lease_id)

    def put_key(self, key: ApiKey) -> ApiKey:
        self.check_writable()
        return self.catalogue.put_key(key)

    def revoke_key(self, identifier: str) -> None:
        self.check_writable()
        self.catalogue.revoke_key(identifier)

    def export(self, ref: str, folder: Path) -> Path:
        """Write the version as a folder that PEFT loads and `publish` takes; the folder must be new or empty."""
        manifest = self.resolve(ref).manifest
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConflictError(f"{folder} exists and is not an empty folder: choose a new one")
        try:
            contents = restore_files(manifest, self.read)
        except IntegrityError:
            self.resolve(ref)  # it may have been removed and freed meanwhile: then this is no damage
            raise
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    def _wanted(self, ref: str) -> Ref:
        """Return the ref of a version that is there, be it damaged, or raise with what exists."""
        wanted = Ref.parse(ref)
        if self._find(wanted, wanted.alias) is None:
            raise self._unknown(ref, wanted.task)
        return wanted

    @contextmanager
    def _holding(self, contents: dict[Blob, bytes]) -> Iterator[str]:
        """Put the blobs under a lease, taken before it is looked whether they are there; whoever names them ends it."""
        identifier = uuid.uuid4().hex
        digests = [blob.sha256 for blob in contents]
        self.catalogue.lease(identifier, digests, holder=PUBLISHING, expires_at=time.time() + PUBLISH_S)
        try:
            for data in contents.values():
                self.blobs.put(data)
            yield identifier
        except BaseException:
            with suppress(OneTrunkError):  # else it ends by itself
                self.catalogue.release(identifier)
            raise

    def _check_alias(self, task: str, alias: str, draft: ManifestDraft, *, force: bool) -> None:
        named = self.queries.find(task, alias=alias)
        if named is None or named.manifest != draft.entry.manifest:
            check_rule(rule_of(self.queries, task, alias), task, draft.manifest.certificate, force=force)

    def _backbone_of(self, checkpoint: Checkpoint, where: str, name: str | None) -> BackboneRecord:
        wanted = name or (checkpoint.card.backbone if checkpoint.card else None)
        if wanted is None:
            names = ", ".join(row.name for row in self.queries.backbones()) or "none yet"
            raise BackboneMismatchError(
                f"{where} does not say its backbone, and PEFT keeps none: "
                f"name it with --backbone; the store has {names}"
            )
        return self.backbone(wanted)

    def check_writable(self) -> None:
        """Raise `ReadOnlyStoreError` where this user may not write."""
        if self.read_only:
            raise ReadOnlyStoreError(f"{self.url} is read-only for this user: make it writable, or work on a copy")


def default_actor() -> str:
    """Say who is at work: the user and the machine."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in a container
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:300]


def _default_depth(checkpoint: Checkpoint, record: BackboneRecord) -> int:
    return checkpoint.card.prune_index.depth if checkpoint.card else record.blocks
