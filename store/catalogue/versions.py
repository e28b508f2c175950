"""Versions in the catalogue: numbered, removed, purged."""

from __future__ import annotations

import sqlite3

import sqlalchemy as sa

from store.catalogue.schema import condemned, named, tags, tasks, versions
from store.catalogue.transaction import Transaction
from store.errors import BackboneNotFoundError, ConflictError, InvalidNameError
from store.queries.reader import Queries
from store.records.blob import SHA256
from store.records.listing import CatalogueEntry
from store.records.refs import tenant_of

# Made once: to build a statement costs SQLAlchemy more than SQLite takes to run it.
KNOWN = "SELECT version, removed_at FROM versions WHERE task = :task AND digest = :digest"
NEXT = "SELECT next_version FROM tasks WHERE task = :task"
INSERT_VERSION = versions.insert()
INSERT_NAMES = named.insert()
INSERT_TASK = tasks.insert()
TAKE = tasks.update().where(tasks.c.task == sa.bindparam("of_task")).values(next_version=sa.bindparam("to_version"))
MARK = (
    versions.update()
    .where(versions.c.task == sa.bindparam("of_task"), versions.c.version == sa.bindparam("of_version"))
    .values(removed_at=sa.bindparam("at"))
)


def add_version(transaction: Transaction, task: str, entry: CatalogueEntry) -> int:
    """Return the number of the version with this manifest, a new one unless the task has it."""
    found = next(iter(transaction.select(KNOWN, task=task, digest=entry.manifest.sha256)), None)
    if found is None:
        return _insert(transaction, task, entry)
    number, removed_at = found
    if removed_at is not None:
        transaction.record("restore", task, version=number)
        mark_removed(transaction, task, number, None)
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
    except (sqlite3.IntegrityError, sa.exc.IntegrityError):  # another process can have taken away what it refers to
        raise BackboneNotFoundError(
            f"backbone {entry.backbone[:16]}… of {task} has just been removed: add it again, then publish"
        ) from None
    transaction.execute(INSERT_NAMES, *names_of(task, number, entry))
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


def names_of(task: str, version: int, entry: CatalogueEntry) -> list[dict[str, object]]:
    blobs = sorted({entry.manifest, *entry.blobs}, key=lambda blob: blob.sha256)
    return [{"task": task, "version": version, "digest": blob.sha256, "nbytes": blob.nbytes} for blob in blobs]


def _take_number(transaction: Transaction, task: str) -> int:
    found = next(iter(transaction.select(NEXT, task=task)), None)
    if found is None:
        transaction.execute(INSERT_TASK, {"task": task, "tenant": tenant_of(task), "next_version": 2})
        return 1
    (number,) = found
    transaction.execute(TAKE, {"of_task": task, "to_version": number + 1})
    return int(number)


def mark_removed(transaction: Transaction, task: str, version: int, at: str | None) -> None:
    transaction.execute(MARK, {"of_task": task, "of_version": version, "at": at})


def purge_version(transaction: Transaction, task: str, version: int) -> None:
    pardon(transaction, [digest for digest, _ in transaction.queries.names_of(task)[version]])
    for table in (tags, named, versions):
        transaction.connection.execute(table.delete().where((table.c.task == task) & (table.c.version == version)))


def pardon(transaction: Transaction, digests: list[str]) -> None:
    """Let the grace time of blobs begin anew: they were condemned before, and something has named them since."""
    transaction.connection.execute(condemned.delete().where(condemned.c.digest.in_(digests)))


def check_backbone_name(reader: Queries, name: str, fingerprint: str) -> None:
    """Raise `ConflictError` where another backbone has the name, `InvalidNameError` where it could be a fingerprint."""
    if SHA256.fullmatch(name):
        raise InvalidNameError(f"backbone name {name!r} looks like a fingerprint: choose another with --as")
    holder = reader.backbone(name)
    if holder is not None and holder.name == name and holder.fingerprint != fingerprint:
        raise ConflictError(
            f"backbone name {name!r} is taken by fingerprint {holder.fingerprint}: choose another for {fingerprint}"
        )
