"""Open a store by its address, with the lightest reader that does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.registry.catalogue_reader import CatalogueReader
    from store.registry.read_only_store import ReadOnlyStore
    from store.registry.store import Store


def open_store(
    url: str | Path, *, create: bool = False, catalogue: str | None = None, actor: str | None = None
) -> Store:
    """Open a store to read and write it; close it, or use it as a context manager.

    `url` is a folder, `s3://BUCKET/PREFIX`, `gs://…` or `az://…`. With `create`, a store that is not there is made.
    `catalogue` is the database URL of the catalogue, by default SQLite in the folder. `actor` is who the history says
    it was, by default this user and machine. Raises `StoreNotFoundError` where there is no store, `StorageError` where
    the address cannot be reached, `InvalidSettingError` for an actor or a URL that is not valid.
    """
    from store.registry.store import Store

    return Store.open(url, create=create, catalogue=catalogue, actor=actor or None)


def open_read_only(url: str | Path, *, catalogue: str | None = None) -> ReadOnlyStore:
    """Open a store to read it; with a catalogue in SQLite, without the database library, which takes 0.3 s to load."""
    if is_on_a_server(catalogue):
        return open_store(url, catalogue=catalogue)
    from store.registry.read_only_store import ReadOnlyStore

    return ReadOnlyStore.open(url, catalogue=catalogue)


def open_catalogue(url: str | Path, *, catalogue: str | None = None) -> CatalogueReader:
    """Open a store to list its contents; with a catalogue in SQLite, without all that lies deeper."""
    if is_on_a_server(catalogue):
        return open_store(url, catalogue=catalogue)
    from store.registry.catalogue_reader import CatalogueReader

    return CatalogueReader.open(url, catalogue=catalogue)


def is_on_a_server(catalogue: str | None) -> bool:
    return catalogue is not None and not catalogue.startswith("sqlite:")
