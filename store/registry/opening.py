"""Is this a store that can be opened, and is this its catalogue?"""

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
REMEDY = "restore it from a copy, or move it away and `onetrunk rebuild`"


def catalogue_path(backend: Backend, catalogue: str | None) -> Path | None:
    """Return the SQLite file of the catalogue, None where it is on a server."""
    if catalogue is None:
        if backend.remote:
            raise InvalidSettingError(
                f"the store {backend.url} lies in a bucket and has no place for a catalogue: name one with "
                "--catalogue postgresql+psycopg://USER@HOST/NAME, or sqlite:///FILE for this machine alone"
            )
        return Path(backend.locate(CATALOGUE))
    if not catalogue.startswith(SQLITE):
        return None
    path = catalogue.removeprefix(SQLITE).removeprefix("///")
    if not path or path.startswith("/" * 2) or "?" in path:
        raise InvalidSettingError(f"catalogue {catalogue!r} names no file: write sqlite:///FILE")
    return Path(path)


def check_format(backend: Backend) -> None:
    found = store_format(backend)
    if found < STORE_FORMAT:
        raise OlderFormatError(
            f"{backend.url} has format {found}, this onetrunk works on {STORE_FORMAT}: stop older onetrunks that use "
            "it, then run `onetrunk migrate` once"
        )


def check_catalogue(backend: Backend, path: Path) -> None:
    """Raise unless the file is there: a store that has lost it must not begin a new one."""
    if path.exists():
        return
    content = has_content(backend)
    if path.exists():  # another process has made it since
        return
    if content:
        raise IntegrityError(f"{path} is missing: restore it from a copy of the store, or run `onetrunk rebuild`")
    raise _unfinished(backend)


def _unfinished(backend: Backend) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"the store at {backend.url} has never been finished: make it with `onetrunk demo` or "
        "`onetrunk publish TASK DIR`"
    )


def check_new(backend: Backend, place: str) -> None:
    """Raise where a catalogue without tables cannot be of a store that nobody has used."""
    if has_content(backend):
        raise IntegrityError(
            f"the catalogue {place} is empty, and {backend.url} has a history: name its own catalogue, restore it from "
            "a copy, or run `onetrunk rebuild`"
        )


def has_content(backend: Backend) -> bool:
    return any(True for folder in (JOURNAL, BLOBS) for _ in backend.list(folder))


def check_compatible(reader: Queries, backend: Backend, identity: str, place: str) -> None:
    """Raise unless the catalogue is in the format that is read, of this store, and no old copy."""
    try:
        found = reader.format()
    except IntegrityError:
        if has_content(backend):
            raise
        raise _unfinished(backend) from None  # whoever made it died before its first tables
    if found > CATALOGUE_FORMAT:
        raise NewerFormatError(
            f"the catalogue {place} has format {found}, this onetrunk reads up to {CATALOGUE_FORMAT}: upgrade onetrunk"
        )
    if found < CATALOGUE_FORMAT:
        raise IntegrityError(f"the catalogue {place} has format {found}, expected {CATALOGUE_FORMAT}: {REMEDY}")
    known = reader.identity()
    if known != identity:
        raise ConflictError(f"the catalogue {place} is of store {known}, not of {identity}: name its own one")
    Journal(backend, reader).check_last()


def may_write(backend: Backend, path: Path | None) -> bool:
    places = [] if path is None else [path, path.parent] if path.exists() else [_nearest(path.parent)]
    effective = os.access in os.supports_effective_ids
    return backend.writable and all(os.access(place, os.W_OK, effective_ids=effective) for place in places)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
