"""What the tests of accounts share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from store.registry.store import Store


@pytest.fixture
def teams(store: Store, folder: Path) -> Store:
    """Two tenants and a task without one: three versions of `acme/cars`, one of `garden/roses`, one of `flowers`."""
    for names in (("a", "b", "c"), ("a", "b", "d"), ("a", "b", "e")):
        publish(store, relabel(folder, *names), "acme/cars")
    publish(store, folder, "garden/roses")
    publish(store, relabel(folder, "rose", "tulip", "poppy"))
    return store
