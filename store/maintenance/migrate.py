"""Migrate a store of an older format to the current one.

Each step is one transaction on the catalogue, then the journal, then the identity: after a crash between them, run
the migration again. To add a step, raise `STORE_FORMAT` and `CATALOGUE_FORMAT`, and call it in `migrate`.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from store.backends.blobs import Blobs
from store.backends.create import write_format
from store.backends.identity import STORE_FORMAT, store_format
from store.backends.urls import open_backend
from store.catalogue.database import Database, selecting
from store.catalogue.reconcile import ManifestReader, fill
from store.catalogue.replay import CatalogueState, PublishedVersion, snapshot_details
from store.catalogue.schema import history, schema
from store.catalogue.transaction import Transaction, row_of_event
from store.errors import IntegrityError, ReadOnlyStoreError
from store.queries.reader import Queries
from store.queries.sql import Select
from store.records.events import GENESIS, BackboneRow, Event
from store.registry.journal import Journal
from store.registry.opening import catalogue_path, may_write

REMEDY = "restore the catalogue from a copy, then migrate"
OLD_TABLES = ("aliases", "versions", "backbones", "history")


def migrate(root: str | Path, *, catalogue: str | None = None, actor: str | None = None) -> tuple[int, int]:
    """Migrate the store if its format is older; return its format before and after."""
    backend = open_backend(root)
    before = store_format(backend)
    if before == STORE_FORMAT:
        return before, before
    path = catalogue_path(backend, catalogue)
    if not may_write(backend, path):
        raise ReadOnlyStoreError(f"{backend.url} is read-only for this user: make it writable, or migrate a copy")
    if path is not None and not path.exists():
        raise IntegrityError(f"{path} is missing: restore it from a copy of the store, then migrate")
    database = Database(path, url=catalogue, read_only=False)
    try:
        with database.write() as connection:
            if not sa.inspect(connection).has_table("meta"):
                _from_format_1(connection, Blobs(backend), actor)
        Journal(backend, Queries(database.snapshot)).repair()
    finally:
        database.close()
    write_format(backend)
    return before, STORE_FORMAT


def _from_format_1(connection: sa.Connection, blobs: Blobs, actor: str | None) -> None:
    """Replace the four tables of format 1; its events do not record all changes, so one more has the whole state."""
    select = selecting(connection)
    columns = "number, at, action, subject, version, alias, digest, previous"
    events = [Event(*row) for row in select(f"SELECT {columns} FROM history ORDER BY number")]
    state = _read_format_1(select)
    _check_format_1(state, events)
    for table in OLD_TABLES:
        connection.exec_driver_sql(f"DROP TABLE {table}")
    schema.create_all(connection)
    connection.execute(history.insert(), [row_of_event(event) for event in events])
    fill(connection, state, ManifestReader(blobs))
    Transaction(connection, actor).record("migrate", state.identity, details=snapshot_details(state))


def _check_format_1(state: CatalogueState, events: list[Event]) -> None:
    """Raise `IntegrityError` where the history is not a chain, or differs from the tables that the migration reads."""
    links = [GENESIS, *(event.sha256 for event in events)]
    if any((e.number, e.previous) != (n, link) for n, (e, link) in enumerate(zip(events, links, strict=False), 1)):
        raise IntegrityError(f"the history was changed: {REMEDY}")
    recorded: dict[tuple[str, str, object], object] = {}
    for event in events[1:]:
        key = (event.action, event.subject, event.alias or event.version)
        recorded[key] = event.version if event.alias else event.digest
    tables: dict[tuple[str, str, object], object] = {("alias", *key): n for key, n in state.aliases.items()}
    tables |= {("publish", *key): version.digest for key, version in state.versions.items()}
    tables |= {("backbone", row.name, None): row.record for row in state.backbones.values()}
    different = sorted(str(key) for key in recorded.keys() | tables.keys() if recorded.get(key) != tables.get(key))
    if different:
        raise IntegrityError(f"the tables and the history differ in {different[0]}: {REMEDY}")


def _read_format_1(select: Select) -> CatalogueState:
    state = CatalogueState()
    state.identity = str(next(iter(select("SELECT subject FROM history WHERE number = 1")))[0])
    for fingerprint, name, record, nbytes in select("SELECT fingerprint, name, record, record_nbytes FROM backbones"):
        state.backbones[fingerprint] = BackboneRow(name, fingerprint, record, nbytes)
    for task, version, digest, nbytes, backbone, at in select(
        "SELECT task, version, digest, nbytes, backbone, published_at FROM versions"
    ):
        state.versions[task, version] = PublishedVersion(digest, nbytes, backbone, at)
    for task, last in select("SELECT subject, max(version) FROM history WHERE action = 'publish' GROUP BY subject"):
        state.next_versions[task] = last + 1
    for task, alias, version in select("SELECT task, alias, version FROM aliases"):
        state.aliases[task, alias] = version
    return state
