"""Stores as tenants see them, every method that a tenant has, and queries with a listener."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from store.adapters.checkpoint import Checkpoint
from store.queries.reader import Queries
from store.queries.sql import Select
from store.records.events import AliasRule, ApiKey
from store.records.listing import Search
from store.registry.publish import PublishOptions
from store.registry.store import Store
from store.registry.tenant_store import TenantStore, authenticate, new_key


def as_tenant(store: Store, tenant: str | None, *scopes: str) -> TenantStore:
    key, secret = new_key(tenant, scopes or ("admin",))
    store.put_key(key)
    return TenantStore(store, authenticate(store, secret))


def listening(queries: Queries, listener: Callable[[str, dict[str, object]], None]) -> Queries:
    """Return the same queries; the listener is called with every statement and its parameters."""

    @contextmanager
    def connect() -> Iterator[Select]:
        with queries.connect() as select:
            yield lambda sql, **parameters: listener(sql, parameters) or select(sql, **parameters)

    return Queries(connect)


ALL = Search()


def enter(authorized: AbstractContextManager[Store]) -> object:
    with authorized as store:
        return store.url


PROD = PublishOptions(aliases=("prod",))
FORCED = PublishOptions(aliases=("prod",), force=True)
CHECKPOINT = cast(Checkpoint, None)  # what is refused is refused before it is opened
FILE = io.BytesIO()
VERBS: dict[str, tuple[str, Callable[[TenantStore, str], object]]] = {
    "resolve": ("read", lambda s, task: s.resolve(f"{task}@latest")),
    "list_versions": ("read", lambda s, task: s.list_versions(task)),
    "aliases": ("read", lambda s, task: s.aliases(task)),
    "splits": ("read", lambda s, task: s.splits(task)),
    "rules": ("read", lambda s, task: s.rules(task)),
    "tags": ("read", lambda s, task: s.tags(task)),
    "history": ("read", lambda s, task: s.history(task)),
    "labels": ("read", lambda s, task: s.labels(f"{task}:1")),
    "diff": ("read", lambda s, task: s.diff(f"{task}:1", f"{task}:2")),
    "preview_alias": ("read", lambda s, task: s.preview_alias(task, "prod", 1)),
    "preview_rollback": ("read", lambda s, task: s.preview_rollback(task)),
    "export_bundle": ("read", lambda s, task: s.export_bundle(f"{task}:1", FILE)),
    "publish_checkpoint": ("publish", lambda s, task: s.publish_checkpoint(task, CHECKPOINT, where="test")),
    "import_bundle": ("publish", lambda s, task: s.import_bundle(task, FILE)),
    "set_tag": ("publish", lambda s, task: s.set_tag(task, "team", "vision")),
    "remove": ("publish", lambda s, task: s.remove(f"{task}:1")),
    "restore": ("publish", lambda s, task: s.restore(task)),
    "set_alias": ("promote", lambda s, task: s.set_alias(task, "prod", 1)),
    "remove_alias": ("promote", lambda s, task: s.remove_alias(task, "prod")),
    "split_alias": ("promote", lambda s, task: s.split_alias(task, "prod", {1: 50, 2: 50})),
    "end_split": ("promote", lambda s, task: s.end_split(task, "prod")),
    "rollback": ("promote", lambda s, task: s.rollback(task)),
    "set_rule": ("admin", lambda s, task: s.set_rule(AliasRule(task, "prod", protected=True))),
    "authorized": ("read", lambda s, task: enter(s.authorized("read", task))),
    "check": ("read", lambda s, task: s.check("read", task)),
}
UNNAMED: dict[str, tuple[str, Callable[[TenantStore], object]]] = {
    "search": ("read", lambda s: s.search(ALL)),
    "backbones": ("read", lambda s: s.backbones()),
    "holders": ("read", lambda s: s.holders([])),
    "list_keys": ("admin", lambda s: s.list_keys()),
    "create_key": ("admin", lambda s: s.create_key("acme", ("read",))),
    "revoke_key": ("admin", lambda s: s.revoke_key("0" * 16)),
}
STRICTER: dict[str, Callable[[TenantStore, str], object]] = {
    "publish that promotes": lambda s, task: s.publish_checkpoint(task, CHECKPOINT, where="test", options=PROD),
    "publish that forces": lambda s, task: s.publish_checkpoint(task, CHECKPOINT, where="test", options=FORCED),
    "removal of all": lambda s, task: s.remove(task, all_versions=True),
    "forced alias": lambda s, task: s.set_alias(task, "prod", 1, force=True),
    "forced removal of an alias": lambda s, task: s.remove_alias(task, "prod", force=True),
    "forced split": lambda s, task: s.split_alias(task, "prod", {1: 50, 2: 50}, force=True),
    "forced end of a split": lambda s, task: s.end_split(task, "prod", force=True),
    "forced rollback": lambda s, task: s.rollback(task, force=True),
}


class Untouchable:
    """In place of a store: any use of it fails."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was looked up")


def untouched(tenant: str | None, *scopes: str) -> TenantStore:
    return TenantStore(cast(Store, Untouchable()), ApiKey("1", tenant, scopes, "", ""))
