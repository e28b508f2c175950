"""What makes a folder or a bucket a store: one object with its format and its UUID."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from store.backends.base import Backend
from store.backends.layout import IDENTITY
from store.errors import FormatError, NewerFormatError, StoreNotFoundError

STORE_FORMAT = 2
"""Raise it when an older onetrunk would misread or damage a newer store, and teach this file both.

1: the catalogue alone holds the history. 2: the journal mirrors it, and blobs are collected.
"""

REMEDY = "restore it from a copy of the store"


@dataclass(frozen=True)
class Identity:
    format: int
    uuid: str


def store_uuid(backend: Backend) -> str:
    """Return the store's UUID."""
    return _read(backend).uuid


def store_format(backend: Backend) -> int:
    """Return the format that the store is in, 1 to `STORE_FORMAT`."""
    return _read(backend).format


def _read(backend: Backend) -> Identity:
    try:
        data = backend.read(IDENTITY)
    except FileNotFoundError:
        raise StoreNotFoundError(
            f"no store at {backend.url}: make one with `onetrunk demo` or `onetrunk publish TASK DIR`, "
            "or name another folder with --store"
        ) from None
    return _parse(data, backend.locate(IDENTITY))


def _parse(data: bytes, location: str) -> Identity:
    try:
        identity = json.loads(data)
        number, name = identity["format"], str(uuid.UUID(identity["uuid"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise FormatError(f"{location} is not onetrunk's: {REMEDY}") from None
    if not isinstance(number, int) or number < 1:
        raise FormatError(f"{location} has format {number!r}, expected 1 or above: {REMEDY}")
    if number > STORE_FORMAT:
        raise NewerFormatError(
            f"{location} has format {number}, this onetrunk reads up to {STORE_FORMAT}: upgrade onetrunk"
        )
    if name != identity["uuid"]:
        raise FormatError(f"{location} has uuid {identity['uuid'][:80]!r}, expected {name}: {REMEDY}")
    return Identity(number, name)
