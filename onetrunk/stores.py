"""Open a store by its address, with the lightest reader that does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.registry.catalogue_reader import CatalogueReader
    from store.registry.read_only_store import ReadOnlyStore
    from store.registry.store import Store

ACTOR_LENGTH = 300


def is_on_a_server(catalogue: str | None) -> bool:
    return catalogue is not None and not catalogue.startswith("sqlite:")


def open_catalogue(root: str, *, catalogue: str | None) -> CatalogueReader:
    """Open a store to list what it holds; with a catalogue in SQLite, without all that lies deeper."""
    if is_on_a_server(catalogue):
        return open_store(root, catalogue=catalogue)
    from store.registry.catalogue_reader import CatalogueReader

    return CatalogueReader.open(root, catalogue=catalogue)


def open_read_only(root: str, *, catalogue: str | None) -> ReadOnlyStore:
    """Open a store to read it; with a catalogue in SQLite, without the database library, which takes 0.3 s to load."""
    if is_on_a_server(catalogue):
        return open_store(root, catalogue=catalogue)
    from store.registry.read_only_store import ReadOnlyStore

    return ReadOnlyStore.open(root, catalogue=catalogue)


def open_store(root: str, *, catalogue: str | None, actor: str | None = None, create: bool = False) -> Store:
    from store.registry.store import Store

    if actor and not (actor.isprintable() and len(actor) <= ACTOR_LENGTH):
        raise InvalidSettingError(f"actor {actor[:80]!r}: use at most {ACTOR_LENGTH} printable characters")
    return Store.open(root, create=create, catalogue=catalogue, actor=actor or None)
