"""Make a lost catalogue again from the journal and the manifests, with the same answers."""

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
from store.catalogue.replay import State, replay
from store.catalogue.schema import history, schema
from store.catalogue.transaction import row_of_event
from store.errors import ConflictError, IntegrityError, StorageError
from store.queries.sqlite import connect, typed
from store.registry.opening import catalogue_path, check_format


@dataclass(frozen=True)
class Rebuilt:
    """How much was found, and what could not be read (one line each)."""

    events: int
    versions: int
    problems: tuple[str, ...]


def rebuild(root: str | Path, *, catalogue: str | None = None) -> Rebuilt:
    """Make the catalogue of a store that has none; raise `ConflictError` where there is one.

    A version whose manifest is damaged keeps its number and its names, and is refused when it is asked for.
    """
    backend = open_backend(root)
    identity = store_uuid(backend)
    check_format(backend)
    path = catalogue_path(backend, catalogue)
    if path is not None:
        return _make_file(path, backend, identity)
    with closing(Database(None, url=catalogue, read_only=False)) as database:
        return _write(database, backend, identity)


def _write(database: Database, backend: Backend, identity: str) -> Rebuilt:
    """Write all of it in one transaction."""
    state, describing, number = State(), ManifestReader(Blobs(backend)), 0
    with database.write() as connection:
        if sa.inspect(connection).has_table("meta"):
            raise ConflictError(
                f"the catalogue {database.place} exists: move it away first if it is damaged, else keep it"
            )
        schema.create_all(connection)
        events = replay(backend)
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
        fill(connection, state, describing)
    return Rebuilt(number, len(state.versions), tuple(describing.problems))


def _make_file(path: Path, backend: Backend, identity: str) -> Rebuilt:
    """Make the file beside its place and rename it there: a crash leaves no half of a catalogue."""
    if path.exists():
        raise ConflictError(f"the catalogue {path} exists: move it away first if it is damaged, else keep it")
    with temporary_beside(path) as temporary:
        try:
            temporary.touch()
            with closing(Database(temporary, url=None, read_only=False)) as database:
                rebuilt = _write(database, backend, identity)
            _fold_log(temporary)
            sync_file(temporary)
            temporary.rename(path)
            sync_folder(path.parent)
            return rebuilt
        finally:
            for leftover in _files_of(temporary):
                leftover.unlink(missing_ok=True)


def _fold_log(path: Path) -> None:
    """Move everything from the write-ahead log into the file, which SQLite's own last close may fail at in silence."""
    with typed(str(path)), closing(connect(path, read_only=False)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        raise StorageError(f"the log of {path} cannot be folded into it (journal mode {mode!r}): look at the disk")


def _files_of(path: Path) -> Iterable[Path]:
    return [path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES]
