"""What the tests of maintenance share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from store.maintenance.garbage import collect_garbage
from store.records.events import AliasRule
from store.registry.api_keys import new_key
from store.registry.store import Store


@pytest.fixture
def used(store: Store, folder: Path) -> Store:
    """A store in which everything has happened that a history tells of."""
    publish(store, folder, aliases=("prod",))
    for name in ("b", "c", "d"):
        publish(store, relabel(folder, "a", name, "z"))
    publish(store, folder, "acme/cars")
    store.set_rule(AliasRule("acme/*", "prod", protected=True, max_drop=1.5))
    store.set_rule(AliasRule("*", "canary", min_accuracy=0.5))
    store.set_rule(AliasRule("*", "canary"))
    store.set_tag("flowers", "owner", "ann")
    store.set_tag("flowers", "stage", "test", version=2)
    store.set_tag("flowers", "stage", None, version=2)
    store.rollback("flowers")
    store.remove("flowers:2")
    collect_garbage(store, grace_s=0)
    store.remove("flowers:4")
    store.remove("acme/cars", all_versions=True)
    for revoke in (True, False):
        key = store.put_key(new_key("acme", ("read", "publish"))[0])
        if revoke:
            store.revoke_key(key.id)
    return store
