"""A store open for writing: publish versions, move aliases, remove, restore and export."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from store.adapters.checkpoint import Checkpoint, read_checkpoint
from store.adapters.manifests import restore_files
from store.backends.base import Backend
from store.backends.blobs import Blobs
from store.backends.create import create_identity
from store.backends.identity import store_uuid
from store.backends.layout import CATALOGUE
from store.backends.urls import open_backend
from store.catalogue.aliases import check_possible, check_range, rule_of
from store.catalogue.catalogue import Catalogue
from store.catalogue.database import Database
from store.catalogue.removal import Removal, removable_versions, removal_of
from store.errors import ConflictError, IntegrityError, InvalidNameError, InvalidSettingError, ReadOnlyStoreError
from store.queries.reader import Queries
from store.queries.references import read_manifest
from store.queries.sqlite import SqliteRows, make_file
from store.records.backbone import BackboneRecord
from store.records.bounds import MAX_LEASE_S, check_seconds, check_version
from store.records.events import LATEST, AliasRule, ApiKey, Event
from store.records.evidence import Certificate
from store.records.listing import Page, Search, VersionListing, VersionRow
from store.records.manifest import Manifest
from store.records.refs import Ref, check_name
from store.records.version import Version
from store.registry.actors import check_actor, default_actor
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
from store.registry.preflight import check_catalogue_is_free
from store.registry.publish import DEFAULT, PublishOptions, add_backbone, draft_version, leased
from store.registry.read_only_store import ReadOnlyStore, version_of

__all__ = ["Event", "Page", "ReadOnlyStore", "Removal", "Search", "Store", "Version", "VersionListing"]


class Store(ReadOnlyStore):
    """A store open for reading, and for writing where its user may."""

    def __init__(
        self,
        backend: Backend,
        database: Database,
        *,
        read_only: bool,
        rows: SqliteRows | None,
        actor: str,
    ) -> None:
        super().__init__(
            backend, Queries(rows.snapshot if rows is not None else database.snapshot), read_only=read_only, rows=rows
        )
        self.journal = Journal(backend, self.queries)
        self.catalogue = Catalogue(database, actor=actor, committed=self.journal.keep)

    @classmethod
    def open(
        cls, root: str | Path, *, create: bool = False, catalogue: str | None = None, actor: str | None = None
    ) -> Self:
        """Open the store at this URL or folder, for reading alone where it cannot be written.

        `catalogue` is a database URL. The history names `actor`, by default the user and the machine.
        """
        actor = default_actor() if actor is None else check_actor(actor)
        backend = open_backend(root)
        path = catalogue_path(backend, catalogue)
        if create:
            check_catalogue_is_free(backend, path, catalogue)
        identity = create_identity(backend) if create else store_uuid(backend)
        check_format(backend)
        read_only = not may_write(backend, path)
        if path is not None and not (create and not read_only and not has_content(backend)):
            check_catalogue(backend, path)
        if create and not read_only and path is not None:
            make_file(path)
        database = Database(path, url=catalogue, read_only=read_only)
        rows = SqliteRows(database.file) if database.file is not None else None
        store = cls(backend, database, read_only=read_only, rows=rows, actor=actor)
        if create and not read_only:
            store.catalogue.create(identity, check=lambda: check_new(backend, database.location))
        check_compatible(store.queries, backend, identity, database.location)
        store._follow_file(identity)
        return store

    def with_actor(self, actor: str, *, probe_existing: bool = True) -> Self:
        """Return the same store with another actor; `probe_existing` is as for `Blobs`."""
        self.queries.check_open()
        other = type(self)(
            self.backend, self.catalogue.database, read_only=self.read_only, rows=self._sqlite, actor=check_actor(actor)
        )
        other.blobs = Blobs(self.backend, probe_existing=probe_existing)
        return other

    @property
    def catalogue_location(self) -> str:
        """The catalogue's file, or its URL without the password."""
        return self.catalogue.database.location

    @property
    def root(self) -> Path:
        """The store's folder."""
        return Path(self.backend.locate(CATALOGUE)).parent

    def release_connections(self) -> None:
        super().release_connections()
        self.catalogue.database.close()

    def close(self) -> None:
        super().close()
        self.catalogue.close()

    def add_backbone(self, record: BackboneRecord, weights: bytes | None) -> BackboneRecord:
        """Keep the backbone, and its weights unless None; return the record that the store has now.

        A known fingerprint keeps its name, and its weights if it has them.
        """
        self.check_writable()
        return add_backbone(self, self.catalogue, record, weights)

    def publish(
        self,
        task: str,
        folder: str | Path,
        *,
        backbone: str | None = None,
        depth: int | None = None,
        aliases: tuple[str, ...] = (),
        force: bool = False,
    ) -> Version:
        """Publish the folder as a version of the task, once all of it is checked, and point `latest` at it.

        Where the folder has no `onetrunk.json`, `backbone` is required, and `depth` is all blocks unless set. The same
        content again is the same version.
        """
        self.check_writable()
        check_name(task, "task")
        options = PublishOptions(backbone=backbone, depth=depth, aliases=aliases, force=force)
        return self.publish_checkpoint(task, read_checkpoint(Path(folder)), where=str(folder), options=options)

    def publish_checkpoint(
        self, task: str, checkpoint: Checkpoint, *, where: str, options: PublishOptions = DEFAULT
    ) -> Version:
        """Publish files that are in memory; messages say `where` they came from."""
        self.check_writable()
        check_name(task, "task")
        draft = draft_version(self, task, checkpoint, where=where, options=options)
        aliases = tuple(dict.fromkeys((LATEST, *options.aliases)))
        with leased(self.catalogue, self.blobs, draft.contents) as lease:
            row = self.catalogue.publish(task, draft.entry, aliases=aliases, lease=lease, force=options.force)
        return version_of(row, draft.manifest)

    def set_alias(self, task: str, alias: str, version: int, *, force: bool = False) -> None:
        """Point the alias at the version; `force` moves a protected alias, and opens no gate."""
        self.check_writable()
        check_name(alias, "alias")
        check_version(version)
        target = self.resolve(f"{task}:{version}")
        self.catalogue.set_alias(task, alias, target.number, target.manifest.certificate, force=force)

    def check_alias(self, task: str, alias: str, *, force: bool = False, drop_known: bool = True) -> None:
        """Raise where the alias is protected, or requires a drop that no version of the task will have."""
        check_possible(rule_of(self.queries, task, alias), task, force=force, drop_known=drop_known)

    def remove_alias(self, task: str, alias: str, *, force: bool = False) -> None:
        self.check_writable()
        self.require_task(task)
        if alias == LATEST:
            raise InvalidNameError(f"alias {LATEST!r} is what {task!r} alone means: move it, or remove the task")
        self.catalogue.remove_alias(task, check_name(alias, "alias"), force=force)

    def set_rule(self, rule: AliasRule) -> None:
        """Set what an alias requires before it moves; an empty rule deletes the old one."""
        self.check_writable()
        if rule.task != "*":
            scope = check_name(rule.task.removesuffix("/*"), "task")
            if rule.task.endswith("/*") and "/" in scope:
                raise InvalidNameError(f"scope {rule.task!r} is not valid: write TASK, TENANT/* or *")
        if check_name(rule.alias, "alias") == LATEST:
            raise InvalidSettingError(f"alias {LATEST!r} follows every publish: set the rule of another, such as prod")
        check_range(rule)
        self.catalogue.set_rule(rule)

    def rollback(self, task: str, alias: str = LATEST, *, force: bool = False) -> Version:
        """Point the alias at the version before its current one, or end its split; each rollback goes back further."""
        self.check_writable()
        self.require_task(task)
        manifests: dict[VersionRow, Manifest] = {}

        def certify(row: VersionRow) -> Certificate | None:
            manifests[row] = read_manifest(self.blobs, row)
            return manifests[row].certificate

        row = self.catalogue.rollback(task, check_name(alias, "alias"), certify, force=force)
        return version_of(row, next(iter(manifests.values())))

    def set_tag(self, task: str, key: str, value: str | None, *, version: int | None = None) -> None:
        """Set a tag of the task, or of one version; None deletes it."""
        self.check_writable()
        self.require_task(task)
        check_name(key, "tag")
        if value is not None and (not value.isprintable() or not 1 <= len(value) <= 300):
            raise InvalidNameError(f"tag {key!r} has value {value[:80]!r}: use 1 to 300 printable characters")
        check_version(version)
        self.catalogue.set_tag(task, version or 0, key, value)

    def remove(
        self, ref: str, *, all_versions: bool = False, dry_run: bool = False, tenant: str | None = None
    ) -> Removal:
        """Remove a version, or with `all_versions` the task; `restore` undoes it until a collection purges it.

        With `tenant`, `freed_nbytes` counts the blobs that no other version of this tenant references.
        """
        self.check_writable()
        task = check_name(ref, "task") if all_versions else Ref.parse(ref).task
        self.require_task(task)
        if not all_versions and ref == task:
            raise InvalidNameError(f"{ref!r} names a task: give {ref}:NUMBER, or `all_versions=True` for all of it")
        one = None if all_versions else self._existing(ref)
        if dry_run:
            return removal_of(self.queries, task, removable_versions(self.queries, task, one), tenant=tenant)
        return self.catalogue.remove(task, one, tenant=tenant)

    def restore(self, task: str, version: int | None = None) -> list[int]:
        """Restore a removed version, or all of them; return their numbers."""
        self.check_writable()
        check_version(version)
        return self.catalogue.restore(check_name(task, "task"), version)

    def remove_backbone(self, name: str) -> None:
        """Remove a backbone that no version uses; the next collection marks its weights."""
        self.check_writable()
        record = self.backbone(name)
        self.catalogue.remove_backbone(record.id.fingerprint, record.name)

    def lease(self, digests: Iterable[str], *, holder: str, ttl_s: float, lease_id: str | None = None) -> str:
        """Hold versions by their digests, so that they cannot be removed; with `lease_id`, renew that lease.

        Return the id of the lease, which expires after `ttl_s` seconds, a day at most.
        """
        self.check_writable()
        check_seconds("ttl_s", ttl_s, most=MAX_LEASE_S)
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

    def export(self, ref: str, folder: str | Path) -> Path:
        """Write the version as a folder that PEFT loads and `publish` takes; the folder must be new or empty."""
        manifest, folder = self.resolve(ref).manifest, Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConflictError(f"{folder} exists and is not an empty folder: choose a new one")
        try:
            contents = restore_files(manifest, self.read)
        except IntegrityError:
            self.resolve(ref)  # raises if it has been removed and freed meanwhile: then nothing is damaged
            raise
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    def _existing(self, ref: str) -> Ref:
        """Return the ref, or raise with what exists where it names no version; its manifest may be damaged."""
        parsed = Ref.parse(ref)
        if self._find(parsed, parsed.alias) is None:
            raise self._unknown(ref, parsed.task)
        return parsed

    def check_writable(self) -> None:
        """Raise `ReadOnlyStoreError` where this user may not write."""
        if self.read_only:
            raise ReadOnlyStoreError(f"{self.url} is read-only for this user: make it writable, or work on a copy")
