"""What makes a folder or a bucket a store: one object with its format and its UUID."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from store.backend import Backend
from store.errors import ConflictError, FormatError, NewerFormatError, StoreNotFoundError
from store.layout import IDENTITY
from store.probe import FOLDER, require_creation

STORE_FORMAT = 2
"""Raise it when an older onetrunk would misread or damage a newer store, and teach this file both.

1: the catalogue alone holds the history. 2: the journal mirrors it, and blobs are collected.
"""

REMEDY = "restore it from a copy of the store"


@dataclass(frozen=True)
class Identity:
    format: int
    uuid: str


def read_identity(backend: Backend) -> str:
    """Return the store's UUID."""
    return _read(backend).uuid


def identity_format(backend: Backend) -> int:
    """Return the format that the store is in, 1 to `STORE_FORMAT`."""
    return _read(backend).format


def create_identity(backend: Backend) -> str:
    """Make the root a store unless it is one, and return its UUID; of two processes that race, one wins."""
    if backend.size(IDENTITY) is None:
        _refuse_foreign_objects(backend)
        if backend.remote:
            require_creation(backend)
        backend.create(IDENTITY, _encode(str(uuid.uuid4())))
    return read_identity(backend)


def raise_format(backend: Backend) -> None:
    """Say that the store is in `STORE_FORMAT` now; it keeps its UUID."""
    backend.put(IDENTITY, _encode(read_identity(backend)))


def _encode(name: str) -> bytes:
    return json.dumps({"format": STORE_FORMAT, "uuid": name}).encode() + b"\n"


def _read(backend: Backend) -> Identity:
    try:
        data = backend.read(IDENTITY)
    except FileNotFoundError:
        raise StoreNotFoundError(
            f"no store at {backend.url}: make one with `onetrunk demo` or `onetrunk publish TASK DIR`, "
            "or name another folder with --store"
        ) from None
    return _parse(data, backend.locate(IDENTITY))


def _parse(data: bytes, place: str) -> Identity:
    try:
        identity = json.loads(data)
        number, name = identity["format"], str(uuid.UUID(identity["uuid"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"{place} is not onetrunk's: {REMEDY}") from None
    if not isinstance(number, int) or number < 1:
        raise FormatError(f"{place} has format {number!r}, expected 1 or above: {REMEDY}")
    if number > STORE_FORMAT:
        raise NewerFormatError(
            f"{place} has format {number}, this onetrunk reads up to {STORE_FORMAT}: upgrade onetrunk"
        )
    return Identity(number, name)


def _refuse_foreign_objects(backend: Backend) -> None:
    # Everything under the root is the store's, to count and to collect, so a folder in use cannot become one.
    # What a creation that died, or that runs beside us, has left is no obstacle.
    ours = (f"{FOLDER}/", f".{IDENTITY}.")
    found = next((file for file in backend.walk() if not file.path.startswith(ours)), None)
    if found is not None and backend.size(IDENTITY) is None:
        raise ConflictError(f"{backend.url} holds {found.path!r} and no store: choose an empty or a new place")
