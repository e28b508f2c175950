"""What is checked before a folder or a bucket becomes a store: a creation that fails must leave nothing behind."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from store.backends.base import Backend
from store.backends.layout import IDENTITY
from store.catalogue.database import Database
from store.errors import ConflictError, InvalidSettingError, ReadOnlyStoreError
from store.registry.opening import may_write


def check_catalogue_is_free(backend: Backend, path: Path | None, url: str | None) -> None:
    """Raise where the catalogue of a store that is yet to be made cannot be, or is another store's."""
    if backend.size(IDENTITY) is not None or url is None:
        return
    if path is not None and path.is_dir():
        raise InvalidSettingError(f"catalogue {url!r:.300} names a folder: name a file in it")
    if path is not None and not may_write(backend, path):
        raise ReadOnlyStoreError(f"the catalogue {path} cannot be written by this user: name another with `catalogue=`")
    if path is not None and not (path.exists() and path.stat().st_size):
        return
    with closing(Database(path, url=url, read_only=True)) as database:
        owner = database.identity()
    if owner is not None and backend.size(IDENTITY) is None:  # else its creator came first
        raise ConflictError(
            f"the catalogue {database.location} is of store {owner}: name its own for {backend.url} with `catalogue=`"
        )
