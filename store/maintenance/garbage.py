"""Free what nothing references, in two steps with a grace time between them: mark and sweep.

A blob that no version, backbone or lease references is marked. One that has been marked for longer than the grace
time, and that nothing has referenced since, is swept: deleted. A publish takes a lease on its blobs before it looks
whether they exist, and the sweep looks for leases and deletes within one write transaction. There is one writer at a
time, so the sweep sees the lease of a publish, or the publish begins after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa

from store.backends.base import Backend, StoredFile
from store.backends.blobs import Blobs
from store.backends.layout import BLOBS, blob_key, is_temporary
from store.catalogue.schema import backbones, holds, leases, marks, version_blobs
from store.catalogue.transaction import Transaction
from store.errors import IntegrityError, InvalidSettingError
from store.queries.reader import Queries
from store.queries.references import read_backbone_record
from store.records.listing import VersionRow
from store.registry.store import Store

BATCH = 200  # blobs deleted in one transaction, while other writers wait


@dataclass(frozen=True)
class GarbageReport:
    """What a collection did, or in a dry run would do: versions purged, blobs freed and marked, and orphaned temporary
    files deleted. `freed_nbytes` counts blobs and orphaned files.
    """

    purged: tuple[str, ...]
    freed: tuple[str, ...]
    freed_nbytes: int
    marked: tuple[str, ...]
    marked_nbytes: int
    orphaned: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """Return the report for JSON; its keys are older than the words of this class."""
        return {
            "purged": self.purged,
            "freed": self.freed,
            "freed_nbytes": self.freed_nbytes,
            "condemned": self.marked,
            "condemned_nbytes": self.marked_nbytes,
            "leftovers": self.orphaned,
        }


def collect_garbage(store: Store, *, grace_s: float = 3600, dry_run: bool = False, wait: bool = False) -> GarbageReport:
    """Purge, mark and sweep; with `wait`, sleep for the grace time and sweep what is marked now."""
    store.check_writable()
    if not 0 <= grace_s < math.inf:
        raise InvalidSettingError(f"grace {grace_s:g} s is not a valid time: use 0 or more")
    backend, catalogue, start = store.backend, store.catalogue, time.time()
    before = datetime.fromtimestamp(start - grace_s, UTC).isoformat(timespec="milliseconds")
    files = {f.sha256: f for f in backend.list(BLOBS) if f.sha256 is not None}
    orphaned = [f for f in backend.list() if is_temporary(f.path) and f.modified_at <= start - grace_s]
    if dry_run:
        _check_readable(store.queries, store.blobs, purged_before=before)
        latest = math.inf if wait else start - grace_s
        purged, due, marked = _foresee(store.queries, set(files), before=before, start=start, latest=latest)
        return _report(files, purged, due, marked, orphaned)
    purged = catalogue.purge(before)
    _check_readable(store.queries, store.blobs)
    since = catalogue.write(lambda transaction: _mark(transaction, set(files), start), historic=False)
    if wait:
        time.sleep(grace_s)
    latest = (time.time() if wait else start) - grace_s  # however long the steps before took
    due = [digest for digest, marked_at in since.items() if marked_at <= latest]
    freed: list[str] = []
    for first in range(0, len(due), BATCH):
        batch = due[first : first + BATCH]
        freed += catalogue.write(partial(_sweep, backend=backend, digests=batch), historic=False)
    backend.delete([f.path for f in orphaned])
    return _report(files, purged, freed, sorted(since.keys() - set(freed)), orphaned)


def _mark(transaction: Transaction, present: set[str], now_s: float) -> dict[str, float]:
    """Mark what nothing references, unmark what something references; return since when each blob is marked."""
    connection = transaction.connection
    expired = sa.select(leases.c.id).where(leases.c.expires_at <= time.time())
    connection.execute(holds.delete().where(holds.c.lease.in_(expired)))
    connection.execute(leases.delete().where(leases.c.expires_at <= time.time()))
    unreferenced = present - live_digests(transaction.queries)
    since = {row.digest: row.since for row in connection.execute(sa.select(marks))}
    _delete_marks(connection, sorted(since.keys() - unreferenced))
    new = sorted(unreferenced - since.keys())
    if new:
        connection.execute(marks.insert(), [{"digest": digest, "since": now_s} for digest in new])
    return {digest: since.get(digest, now_s) for digest in sorted(unreferenced)}


def _sweep(transaction: Transaction, *, backend: Backend, digests: list[str]) -> list[str]:
    """Delete those that are still marked and not referenced; return them."""
    connection = transaction.connection
    swept = [digest for digest in digests if _is_marked(connection, digest) and not _is_referenced(connection, digest)]
    backend.delete([blob_key(digest) for digest in swept])
    _delete_marks(connection, swept)
    return swept


def _delete_marks(connection: sa.Connection, digests: list[str]) -> None:
    if digests:
        rows = [{"of_digest": digest} for digest in digests]
        connection.execute(marks.delete().where(marks.c.digest == sa.bindparam("of_digest")), rows)


def _is_marked(connection: sa.Connection, digest: str) -> bool:
    row = connection.execute(sa.select(marks.c.digest).where(marks.c.digest == digest)).first()
    return row is not None


def _is_referenced(connection: sa.Connection, digest: str) -> bool:
    held = sa.select(holds.c.digest).join(leases, leases.c.id == holds.c.lease)
    selects = (
        sa.select(version_blobs.c.digest).where(version_blobs.c.digest == digest),
        sa.select(backbones.c.record).where(sa.or_(backbones.c.record == digest, backbones.c.weights == digest)),
        held.where(holds.c.digest == digest, leases.c.expires_at > time.time()),
    )
    return any(connection.execute(select.limit(1)).first() is not None for select in selects)


def live_digests(queries: Queries, *, purged_before: str | None = None) -> set[str]:
    """Return every digest that a version, backbone or lease references, except by versions about to be purged."""
    purged = {(row.task, row.version) for row in _outdated(queries, purged_before)}
    live = {blob.sha256 for task, version, blob, _ in queries.version_blobs() if (task, version) not in purged}
    live |= {blob.sha256 for _, blob in queries.backbone_blobs()}
    return live | {digest for lease in queries.leases(now_s=time.time()) for digest in lease.digests}


def _outdated(queries: Queries, before: str | None) -> list[VersionRow]:
    rows = queries.versions(removed=True) if before else []
    return [row for row in rows if row.removed_at and before and row.removed_at <= before]


def _check_readable(queries: Queries, blobs: Blobs, *, purged_before: str | None = None) -> None:
    """Raise `IntegrityError` where the blobs of a version or backbone are unknown: they would seem unreferenced."""
    purged = {(row.task, row.version) for row in _outdated(queries, purged_before)}
    for task, version in queries.unreadable():
        if (task, version) not in purged:
            raise IntegrityError(
                f"the manifest of {task}:{version} could not be read when the catalogue was rebuilt, so its blobs are "
                "unknown: restore it and rebuild the catalogue with `rebuild(url)`, or remove the version"
            )
    for row in queries.backbones(without_weights=True):
        if read_backbone_record(blobs, row).weights is not None:
            raise IntegrityError(
                f"the catalogue does not know the weights of backbone {row.name}: move it away and rebuild it "
                "with `rebuild(url)`"
            )


def _foresee(
    queries: Queries, present: set[str], *, before: str, start: float, latest: float
) -> tuple[list[str], list[str], list[str]]:
    """Return what a collection would purge, free and leave marked; it frees blobs marked up to the time `latest`."""
    purged = [f"{row.task}:{row.version}" for row in _outdated(queries, before)]
    unreferenced = sorted(present - live_digests(queries, purged_before=before))
    since = queries.marks()
    due = [digest for digest in unreferenced if since.get(digest, start) <= latest]
    return purged, due, [digest for digest in unreferenced if digest not in set(due)]


def _report(
    files: Mapping[str, StoredFile],
    purged: list[str],
    freed: list[str],
    marked: list[str],
    orphaned: list[StoredFile],
) -> GarbageReport:
    return GarbageReport(
        purged=tuple(purged),
        freed=tuple(sorted(freed)),
        freed_nbytes=sum(files[d].nbytes for d in freed) + sum(f.nbytes for f in orphaned),
        marked=tuple(marked),
        marked_nbytes=sum(files[d].nbytes for d in marked),
        orphaned=tuple(f.path for f in orphaned),
    )
