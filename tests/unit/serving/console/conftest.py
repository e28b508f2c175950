from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.console_store import ConsoleStore, build
from support.console_visitor import Visitor, make_application

from store.registry.store import Store


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> ConsoleStore:
    """A store with tasks of two tenants, and the secrets of its keys; no test changes it."""
    return build(tmp_path_factory.mktemp("console"))


@pytest.fixture(scope="module")
def shared_store(built: ConsoleStore) -> Iterator[Store]:
    with Store.open(built.root) as store:
        yield store


@pytest.fixture(scope="module")
def visitor(built: ConsoleStore, shared_store: Store) -> Callable[[str], Visitor]:
    """Sign in with the key of this name, at a console that only shows."""
    application = make_application(shared_store)
    return lambda name: Visitor(application, built.secrets[name])


@pytest.fixture
def own_store(built: ConsoleStore, tmp_path: Path) -> Iterator[Store]:
    """A copy of the store, free to be changed."""
    with Store.open(Path(shutil.copytree(built.root, tmp_path / "store"))) as store:
        yield store


@pytest.fixture
def changer(built: ConsoleStore, own_store: Store) -> Callable[[str], Visitor]:
    """Sign in with the key of this name, at a console over `own_store`."""
    application = make_application(own_store)
    return lambda name: Visitor(application, built.secrets[name])
