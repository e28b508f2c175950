"""Checks on opening: the store's format, and that the catalogue is its own and complete."""

from __future__ import annotations

import os
from pathlib import Path

from store.backends.base import Backend
from store.backends.identity import STORE_FORMAT, store_format
from store.backends.layout import BLOBS, CATALOGUE, JOURNAL
from store.errors import (
    ConflictError,
    IntegrityError,
    InvalidSettingError,
    NewerFormatError,
    OlderFormatError,
    StoreNotFoundError,
)
from store.queries.reader import CATALOGUE_FORMAT, Queries
from store.registry.journal import Journal

SQLITE = "sqlite:"
REMEDY = "restore it from a copy, or move it away and rebuild it with `rebuild(url)`"


def catalogue_path(backend: Backend, catalogue: str | None) -> Path | None:
    """Return the SQLite file of the catalogue, None where it is on a server."""
    if catalogue is None:
        if backend.remote:
            raise InvalidSettingError(
                f"the store {backend.url} is in a bucket, which cannot hold a catalogue: name one with "
                "`catalogue=`, such as postgresql+psycopg://USER@HOST/NAME, or sqlite:///FILE for this machine alone"
            )
        return Path(backend.locate(CATALOGUE))
    if not catalogue.startswith(SQLITE):
        return None
    path = catalogue.removeprefix(SQLITE).removeprefix("///")
    if not path or path.startswith("/" * 2) or "?" in path:
        raise InvalidSettingError(f"catalogue {catalogue!r} names no file: write sqlite:///FILE")
    return Path(path)


def check_format(backend: Backend) -> None:
    number = store_format(backend)
    if number < STORE_FORMAT:
        raise OlderFormatError(
            f"{backend.url} has format {number}, this onetrunk works on {STORE_FORMAT}: stop older onetrunks that use "
            "it, then migrate it with `migrate(url)`"
        )


def check_catalogue(backend: Backend, path: Path) -> None:
    """Raise unless the file exists: a store that has lost its catalogue must not get an empty one."""
    if path.exists():
        return
    content = has_content(backend)
    if path.exists():  # another process has created it since
        return
    if content:
        raise IntegrityError(
            f"{path} is missing: restore it from a copy of the store, or rebuild it with `rebuild(url)`"
        )
    raise _unfinished(backend)


def _unfinished(backend: Backend) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"the store at {backend.url} has never been finished: make it with `open_store(url, create=True)`"
    )


def check_new(backend: Backend, place: str) -> None:
    """Raise where the catalogue has no tables but the store has blobs or a journal."""
    if has_content(backend):
        raise IntegrityError(
            f"the catalogue {place} is empty, and {backend.url} has a history: name its own with `catalogue=`, restore "
            "it from a copy, or rebuild it with `rebuild(url)`"
        )


def has_content(backend: Backend) -> bool:
    return any(True for folder in (JOURNAL, BLOBS) for _ in backend.list(folder))


def check_compatible(queries: Queries, backend: Backend, identity: str, place: str) -> None:
    """Raise unless the catalogue has the current format, belongs to this store, and is not an old copy."""
    try:
        number = queries.format()
    except IntegrityError:
        if has_content(backend):
            raise
        raise _unfinished(backend) from None  # its creator died before the first tables
    if number > CATALOGUE_FORMAT:
        raise NewerFormatError(
            f"the catalogue {place} has format {number}, this onetrunk reads up to {CATALOGUE_FORMAT}: upgrade onetrunk"
        )
    if number < CATALOGUE_FORMAT:
        raise IntegrityError(f"the catalogue {place} has format {number}, expected {CATALOGUE_FORMAT}: {REMEDY}")
    known = queries.identity()
    if known != identity:
        raise ConflictError(
            f"the catalogue {place} is of store {known}, not of {identity}: name its own with `catalogue=`"
        )
    Journal(backend, queries).check_last()


def may_write(backend: Backend, path: Path | None) -> bool:
    paths = [] if path is None else [path, path.parent] if path.exists() else [_nearest(path.parent)]
    effective = os.access in os.supports_effective_ids
    return backend.writable and all(os.access(path, os.W_OK, effective_ids=effective) for path in paths)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
