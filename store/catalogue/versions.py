"""Versions in the catalogue: numbered, removed, purged."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from store.catalogue.schema import marks, tags, tasks, version_blobs, versions
from store.catalogue.transaction import Transaction
from store.errors import BackboneNotFoundError, VersionNotFoundError
from store.queries.reader import Queries
from store.records.listing import CatalogueEntry, VersionRow
from store.records.refs import tenant_of

# Built once: building a statement costs SQLAlchemy more than SQLite takes to run it.
KNOWN = "SELECT version, removed_at FROM versions WHERE task = :task AND digest = :digest"
NEXT = "SELECT next_version FROM tasks WHERE task = :task"
INSERT_VERSION = versions.insert()
INSERT_BLOBS = version_blobs.insert()
INSERT_TASK = tasks.insert()
SAME_TASK = tasks.c.task == sa.bindparam("of_task")
TAKE_NUMBER = tasks.update().where(SAME_TASK).values(next_version=sa.bindparam("to_version"))
SET_REMOVED = (
    versions.update()
    .where(versions.c.task == sa.bindparam("of_task"), versions.c.version == sa.bindparam("of_version"))
    .values(removed_at=sa.bindparam("at"))
)


def require_version(queries: Queries, task: str, version: int) -> VersionRow:
    row = queries.find(task, version=version)
    if row is None:
        raise VersionNotFoundError(f"no version {task}:{version}: see `store.versions(task)`")
    return row


def add_version(transaction: Transaction, task: str, entry: CatalogueEntry) -> int:
    """Return the number of the version with this manifest: the one that the task has, restored if removed, or a new
    one.
    """
    known = next(iter(transaction.select(KNOWN, task=task, digest=entry.manifest.sha256)), None)
    if known is None:
        return _insert(transaction, task, entry)
    number, removed_at = known
    if removed_at is not None:
        transaction.record("restore", task, version=number)
        set_removed(transaction, task, number, None)
    return int(number)


def _insert(transaction: Transaction, task: str, entry: CatalogueEntry) -> int:
    number = _take_number(transaction, task)
    event = transaction.record(
        "publish",
        task,
        version=number,
        digest=entry.manifest.sha256,
        details={"nbytes": entry.manifest.nbytes, "backbone": entry.backbone},
    )
    try:
        transaction.execute(INSERT_VERSION, {"task": task, "version": number, **row_of(entry, event.at)})
    except (sqlite3.IntegrityError, sa.exc.IntegrityError):  # another process may have removed the backbone
        raise BackboneNotFoundError(
            f"backbone {entry.backbone[:16]}… of {task} has just been removed: add it again, then publish"
        ) from None
    transaction.execute(INSERT_BLOBS, *blob_rows(task, number, entry))
    return number


def row_of(entry: CatalogueEntry, published_at: str) -> dict[str, object]:
    """Return the columns of a version that its entry gives."""
    return {
        "digest": entry.manifest.sha256,
        "nbytes": entry.manifest.nbytes,
        "backbone": entry.backbone,
        "published_at": published_at,
        "removed_at": None,
        "depth": entry.depth,
        "blocks": entry.blocks,
        "classes": entry.classes,
        "method": entry.method,
        "total_nbytes": entry.nbytes,
    }


def blob_rows(task: str, version: int, entry: CatalogueEntry) -> list[dict[str, object]]:
    """Return a row for each blob that the version references."""
    blobs = sorted({entry.manifest, *entry.blobs}, key=lambda blob: blob.sha256)
    return [{"task": task, "version": version, "digest": blob.sha256, "nbytes": blob.nbytes} for blob in blobs]


def _take_number(transaction: Transaction, task: str) -> int:
    row = next(iter(transaction.select(NEXT, task=task)), None)
    if row is None:
        transaction.execute(INSERT_TASK, {"task": task, "tenant": tenant_of(task), "next_version": 2})
        return 1
    (number,) = row
    transaction.execute(TAKE_NUMBER, {"of_task": task, "to_version": number + 1})
    return int(number)


def set_removed(transaction: Transaction, task: str, version: int, at: str | None) -> None:
    """Set the time (ISO 8601) at which the version was removed; None restores it."""
    transaction.execute(SET_REMOVED, {"of_task": task, "of_version": version, "at": at})


def purge_version(transaction: Transaction, task: str, version: int) -> None:
    unmark(transaction, [digest for digest, _ in transaction.queries.blobs_by_version(task)[version]])
    for table in (tags, version_blobs, versions):
        transaction.connection.execute(table.delete().where((table.c.task == task) & (table.c.version == version)))


def unmark(transaction: Transaction, digests: list[str]) -> None:
    """Start the grace time of blobs again: a mark set before something referenced them no longer counts."""
    transaction.connection.execute(marks.delete().where(marks.c.digest.in_(digests)))
