"""Make a folder or a bucket a store: apart from `store.identity`, as whoever only reads need not know how."""

from __future__ import annotations

import json
import uuid

from store.backends.base import Backend
from store.backends.identity import STORE_FORMAT, store_uuid
from store.backends.layout import IDENTITY
from store.backends.probe import FOLDER, require_creation
from store.errors import ConflictError


def create_identity(backend: Backend) -> str:
    """Make the root a store unless it is one, and return its UUID; of two processes that race, one wins."""
    if backend.size(IDENTITY) is None:
        _refuse_foreign_objects(backend)
        if backend.remote:
            require_creation(backend)
        backend.create(IDENTITY, _encode(str(uuid.uuid4())))
    return store_uuid(backend)


def write_format(backend: Backend) -> None:
    """Say that the store is in `STORE_FORMAT` now; it keeps its UUID."""
    backend.put(IDENTITY, _encode(store_uuid(backend)))


def _encode(name: str) -> bytes:
    return json.dumps({"format": STORE_FORMAT, "uuid": name}).encode() + b"\n"


def _refuse_foreign_objects(backend: Backend) -> None:
    # Everything under the root is the store's, to count and to collect, so a folder in use cannot become one.
    # What a creation that died, or that runs beside us, has left is no obstacle.
    ours = (f"{FOLDER}/", f".{IDENTITY}.")
    foreign = next((file for file in backend.list() if not file.path.startswith(ours)), None)
    if foreign is not None and backend.size(IDENTITY) is None:
        raise ConflictError(f"{backend.url} holds {foreign.path!r} and no store: choose an empty or a new place")
