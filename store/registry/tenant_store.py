"""The store as the holder of one API key may use it.

A key of tenant `acme` sees the tasks whose names begin with `acme/`. Any other name is refused from the name alone,
before anything is looked up: neither the answer nor its time depends on the tasks of other tenants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from store.adapters.checkpoint import Checkpoint, parse_classes
from store.errors import (
    FormatError,
    ImageError,
    InUseError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    OnetrunkError,
    OverloadedError,
    RefusedError,
    TaskNotFoundError,
)
from store.records.backbone import BackboneRecord
from store.records.bounds import MAX_PAGE
from store.records.events import LATEST, AliasRule, ApiKey
from store.records.listing import Page, Search, VersionListing
from store.records.refs import Ref, tenant_of
from store.records.splits import NO_OPTIONS, AliasSplit, SplitOptions
from store.records.version import Version
from store.registry.alias_preview import AliasPreview, preview_alias, preview_rollback
from store.registry.api_keys import ANONYMOUS, SCOPES, allows, authenticate, new_key
from store.registry.bundle import export_bundle, import_bundle
from store.registry.diff import Difference, diff
from store.registry.publish import DEFAULT, PublishOptions
from store.registry.splits import end_split, split_alias
from store.registry.store import Removal, Store
from store.registry.task_events import TaskEvent, TaskLease

__all__ = ["SCOPES", "ApiKey", "TaskEvent", "TaskLease", "TenantStore", "authenticate", "new_key"]

SHOWN = (
    FormatError,
    ImageError,
    InUseError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    OverloadedError,
    RefusedError,
)
"""Errors about the caller's own tasks and files; of any other error a tenant sees the kind alone."""


class TenantStore:
    """The store for one key: each call checks the scope, then the name, and only then reads the store."""

    def __init__(self, store: Store, key: ApiKey) -> None:
        self.key = key
        self._store = store

    @property
    def _is_operator(self) -> bool:
        return self.key.tenant is None and self.key != ANONYMOUS

    def check(self, scope: str, name: str | None = None) -> None:
        """Raise unless the key has the scope and, with a task or ref, may see it; nothing is looked up."""
        if not allows(self.key, scope):
            if self.key == ANONYMOUS:
                raise NotAllowedError(f"this needs a key with the scope {scope}: start the server with `keys=True`")
            scopes = ", ".join(self.key.scopes)
            raise NotAllowedError(f"this needs the scope {scope}, the key has {scopes}: send a key that has it")
        if name is None or self.key.tenant is None:
            return
        task = name if name.endswith("*") else Ref.parse(name).task
        if tenant_of(task) != self.key.tenant:
            raise TaskNotFoundError(f"no task {task[:200]!r} among those of this key: they begin '{self.key.tenant}/…'")

    @contextmanager
    def authorized(self, scope: str, name: str | None = None) -> Iterator[Store]:
        """Give the store for one call; its errors are redacted for all but the operator."""
        self.check(scope, name)
        try:
            yield (
                self._store
                if scope == "read"
                else self._store.with_actor(f"key {self.key.id}", probe_existing=self.key.tenant is None)
            )
        except OnetrunkError as error:
            raise self.worded(error) from None

    def worded(self, error: OnetrunkError) -> OnetrunkError:
        """Return the error as this caller may see it."""
        return error if self._is_operator else self._redact(error)

    def resolve(self, ref: str, *, at: str | None = None) -> Version:
        with self.authorized("read", ref) as store:
            return store.resolve(ref, at=at)

    def search(self, query: Search | None = None, *, after: str | None = None, limit: int = 50) -> Page:
        with self.authorized("read") as store:
            query = query or Search()
            own = query if self.key.tenant is None else replace(query, tenant=self.key.tenant)
            return store.search(own, after=after, limit=limit)

    def list_versions(
        self, task: str, *, removed: bool = False, after: int = 0, limit: int = MAX_PAGE
    ) -> tuple[VersionListing, ...]:
        with self.authorized("read", task) as store:
            return store.list_versions(task, removed=removed, after=after, limit=limit)

    def aliases(self, task: str) -> dict[str, int]:
        with self.authorized("read", task) as store:
            return store.aliases(task)

    def splits(self, task: str) -> list[AliasSplit]:
        with self.authorized("read", task) as store:
            return store.splits(task)

    def rules(self, task: str) -> list[AliasRule]:
        with self.authorized("read", task) as store:
            return store.rules(task)

    def tags(self, task: str, version: int | None = None) -> dict[str, str]:
        with self.authorized("read", task) as store:
            return store.tags(task, version)

    def history(self, task: str, *, after: int = 0, limit: int = MAX_PAGE) -> list[TaskEvent]:
        with self.authorized("read", task) as store:
            return [
                TaskEvent.of(number, event, operator=self._is_operator)
                for number, event in enumerate(store.history(task, after=after, limit=limit), after + 1)
            ]

    def backbones(self) -> list[BackboneRecord]:
        """Return the backbones, which all tenants share; how many tasks use one is not part of the answer."""
        with self.authorized("read") as store:
            return store.backbones()

    def diff(self, left: str, right: str) -> tuple[Difference, ...]:
        """Compare two versions; the key must see both."""
        self.check("read", left)
        with self.authorized("read", right) as store:
            return diff(store, left, right)

    def labels(self, ref: str) -> tuple[str, ...]:
        """Return the class names of a version, in the order of the head's rows."""
        with self.authorized("read", ref) as store:
            return parse_classes(store.read(store.resolve(ref).manifest.head.labels))

    def holders(self, rows: Iterable[VersionListing]) -> list[TaskLease]:
        """Return the leases on these versions; to all but the operator, every holder is 'a server'."""
        by_digest = {row.digest: row for row in rows}
        for row in by_digest.values():
            self.check("read", row.task)
        with self.authorized("read") as store:
            return [
                TaskLease(
                    by_digest[digest].task,
                    by_digest[digest].version,
                    lease.holder if self._is_operator else "a server",
                    lease.expires_at,
                )
                for lease in store.leases()
                for digest in lease.digests
                if digest in by_digest
            ]

    def publish_checkpoint(
        self, task: str, checkpoint: Checkpoint, *, where: str, options: PublishOptions = DEFAULT
    ) -> Version:
        if options.aliases:
            self.check("admin" if options.force else "promote", task)
        with self.authorized("publish", task) as store:
            return store.publish_checkpoint(task, checkpoint, where=where, options=options)

    def import_bundle(self, task: str, file: BinaryIO) -> list[Version]:
        """Publish the versions of a bundle under the task's name; the store must have their backbone already."""
        with self.authorized("publish", task) as store:
            return import_bundle(store, file, task=task, add_backbone=False)

    def export_bundle(self, ref: str, file: BinaryIO) -> int:
        """Write the version as a bundle without its backbone; return the size in bytes."""
        with self.authorized("read", ref) as store:
            return export_bundle(store, [ref], file, with_backbone=False).nbytes

    def set_tag(self, task: str, key: str, value: str | None, *, version: int | None = None) -> None:
        with self.authorized("publish", task) as store:
            store.set_tag(task, key, value, version=version)

    def remove(self, ref: str, *, all_versions: bool = False, dry_run: bool = False) -> Removal:
        """Remove a version, or the task; a tenant sees the bytes that no other version of its own references."""
        with self.authorized("admin" if all_versions else "publish", ref) as store:
            return store.remove(ref, all_versions=all_versions, dry_run=dry_run, tenant=self.key.tenant)

    def restore(self, task: str, version: int | None = None) -> list[int]:
        with self.authorized("publish", task) as store:
            return store.restore(task, version)

    def set_alias(self, task: str, alias: str, version: int, *, force: bool = False) -> None:
        with self.authorized("admin" if force else "promote", task) as store:
            store.set_alias(task, alias, version, force=force)

    def preview_alias(self, task: str, alias: str, version: int, *, force: bool = False) -> AliasPreview:
        """Return what `set_alias` would do; nothing is changed, so reading is enough."""
        with self.authorized("read", task) as store:
            return self._as_seen(preview_alias(store, task, alias, version, force=force))

    def preview_rollback(self, task: str, alias: str = LATEST, *, force: bool = False) -> AliasPreview:
        """Return what `rollback` would do; nothing is changed, so reading is enough."""
        with self.authorized("read", task) as store:
            return self._as_seen(preview_rollback(store, task, alias, force=force))

    def remove_alias(self, task: str, alias: str, *, force: bool = False) -> None:
        with self.authorized("admin" if force else "promote", task) as store:
            store.remove_alias(task, alias, force=force)

    def split_alias(
        self,
        task: str,
        alias: str,
        shares: Mapping[int, float] | None = None,
        *,
        options: SplitOptions = NO_OPTIONS,
        force: bool = False,
    ) -> AliasSplit:
        with self.authorized("admin" if force else "promote", task) as store:
            return split_alias(store, task, alias, shares, options=options, force=force)

    def end_split(self, task: str, alias: str, *, force: bool = False) -> AliasSplit:
        with self.authorized("admin" if force else "promote", task) as store:
            return end_split(store, task, alias, force=force)

    def rollback(self, task: str, alias: str = LATEST, *, force: bool = False) -> Version:
        with self.authorized("admin" if force else "promote", task) as store:
            return store.rollback(task, alias, force=force)

    def set_rule(self, rule: AliasRule) -> None:
        """Set what an alias of a task, or of every task of a tenant (`acme/*`), requires before it moves."""
        with self.authorized("admin", rule.task) as store:
            store.set_rule(rule)

    def list_keys(self, *, after: str = "", limit: int = MAX_PAGE) -> list[ApiKey]:
        """Return the keys of the tenant by id, those after one; the operator sees all."""
        with self.authorized("admin") as store:
            return store.api_keys(self.key.tenant, after=after, limit=limit)

    def create_key(self, tenant: str | None, scopes: tuple[str, ...]) -> tuple[ApiKey, str]:
        """Make a key of the caller's own tenant, or as operator of any; return it with its secret."""
        self.check("admin")
        if self.key.tenant not in (None, tenant):
            raise NotAllowedError(f"tenant {tenant!r}: this key makes keys of tenant {self.key.tenant!r} alone")
        key, secret = new_key(tenant, scopes)
        with self.authorized("admin") as store:
            return store.put_key(key), secret

    def revoke_key(self, identifier: str) -> ApiKey:
        with self.authorized("admin") as store:
            key = store.api_key(identifier)
            if key is None or self.key.tenant not in (None, key.tenant):
                raise NotFoundError(f"no API key {identifier[:40]!r}: list yours for the ids that there are")
            store.revoke_key(identifier)
            return store.api_key(identifier) or key

    def _as_seen(self, preview: AliasPreview) -> AliasPreview:
        return preview if preview.refusal is None else replace(preview, refusal=self.worded(preview.refusal))

    def _redact(self, error: OnetrunkError) -> OnetrunkError:
        """Return the error as all but the operator see it: without the store's location, other tasks, or machines."""
        if not isinstance(error, SHOWN):
            return type(error)("the store cannot do this now: try again, or ask its operator to run `verify(store)`")
        message = str(error).replace(self._store.url, "the store")
        if isinstance(error, InUseError):
            for lease in self._store.leases():
                message = message.replace(lease.holder, "a server")
        return type(error)(message)
