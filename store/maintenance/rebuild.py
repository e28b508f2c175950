"""Rebuild a lost catalogue from the journal and the manifests."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from store.backends.atomic_write import sync_file, sync_folder, temporary_beside
from store.backends.base import Backend
from store.backends.blobs import Blobs
from store.backends.identity import store_uuid
from store.backends.layout import SQLITE_SUFFIXES
from store.backends.urls import open_backend
from store.catalogue.database import Database
from store.catalogue.reconcile import CHUNK, ManifestReader, fill
from store.catalogue.replay import CatalogueState, read_journal
from store.catalogue.schema import history, schema
from store.catalogue.transaction import row_of_event
from store.errors import ConflictError, IntegrityError, StorageError
from store.queries.sqlite import connect, typed
from store.registry.opening import catalogue_path, check_format


@dataclass(frozen=True)
class RebuildReport:
    """How many events and versions were rebuilt, and a line for each manifest or record that could not be read."""

    events: int
    versions: int
    problems: tuple[str, ...]


def rebuild(root: str | Path, *, catalogue: str | None = None) -> RebuildReport:
    """Rebuild the catalogue of a store that has lost it; raise `ConflictError` where there is one.

    A version whose manifest is damaged keeps its number and its aliases, and raises `IntegrityError` when it is read.
    """
    backend = open_backend(root)
    identity = store_uuid(backend)
    check_format(backend)
    path = catalogue_path(backend, catalogue)
    if path is not None:
        return _make_file(path, backend, identity)
    with closing(Database(None, url=catalogue, read_only=False)) as database:
        return _write(database, backend, identity)


def _write(database: Database, backend: Backend, identity: str) -> RebuildReport:
    """Write the whole catalogue in one transaction."""
    state, manifests, number = CatalogueState(), ManifestReader(Blobs(backend)), 0
    with database.write() as connection:
        if sa.inspect(connection).has_table("meta"):
            raise ConflictError(
                f"the catalogue {database.place} exists: move it away first if it is damaged, else keep it"
            )
        schema.create_all(connection)
        events = read_journal(backend)
        while chunk := list(islice(events, CHUNK)):
            connection.execute(history.insert(), [row_of_event(event) for event in chunk])
            number = chunk[-1].number
            for event in chunk:
                state.apply(event)
        if state.identity != identity:
            raise IntegrityError(
                f"the journal of {backend.url} is of store {state.identity or 'none'}, not of {identity}: restore it "
                "from a copy"
            )
        fill(connection, state, manifests)
    return RebuildReport(number, len(state.versions), tuple(manifests.problems))


def _make_file(path: Path, backend: Backend, identity: str) -> RebuildReport:
    """Write the file under a temporary name and rename it: a crash leaves no incomplete catalogue."""
    if path.exists():
        raise ConflictError(f"the catalogue {path} exists: move it away first if it is damaged, else keep it")
    with temporary_beside(path) as temporary:
        try:
            temporary.touch()
            with closing(Database(temporary, url=None, read_only=False)) as database:
                rebuilt = _write(database, backend, identity)
            _checkpoint_log(temporary)
            sync_file(temporary)
            temporary.rename(path)
            sync_folder(path.parent)
            return rebuilt
        finally:
            for file in _files_of(temporary):
                file.unlink(missing_ok=True)


def _checkpoint_log(path: Path) -> None:
    """Move the write-ahead log into the file: SQLite does so on its last close, but does not report a failure."""
    with typed(str(path)), closing(connect(path, read_only=False)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        raise StorageError(f"the log of {path} cannot be moved into it (journal mode {mode!r}): check the disk")


def _files_of(path: Path) -> Iterable[Path]:
    return [path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES]
