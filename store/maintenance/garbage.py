"""Free what nothing names, in two steps with a grace time between, so that nothing at work loses what it needs.

A blob that no version, backbone or lease names is condemned. One that was condemned longer ago than the grace time,
and that nothing has named since, is swept. A publish takes a lease on its blobs before it looks whether they exist,
and the sweep looks for leases and deletes within one write transaction; writers come one at a time, so a publish
either is seen by the sweep or begins after it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import sqlalchemy as sa

from store.backends.base import Backend, StoredFile
from store.backends.blobs import Blobs
from store.backends.layout import BLOBS, blob_key, is_temporary
from store.catalogue.schema import backbones, condemned, holds, leases, named
from store.catalogue.transaction import Transaction
from store.errors import IntegrityError, InvalidSettingError
from store.queries.reader import Queries
from store.queries.references import read_backbone_record
from store.records.listing import VersionRow
from store.registry.store import Store

BATCH = 200  # blobs deleted in one transaction, while other writers wait


@dataclass(frozen=True)
class GarbageReport:
    """What a collection did, or in a dry run would do: versions purged, blobs freed and condemned, and leftovers of
    writers that died. Freed bytes are those of blobs and leftovers.
    """

    purged: tuple[str, ...]
    freed: tuple[str, ...]
    freed_nbytes: int
    condemned: tuple[str, ...]
    condemned_nbytes: int
    leftovers: tuple[str, ...]


def collect_garbage(store: Store, *, grace_s: float = 3600, dry_run: bool = False, wait: bool = False) -> GarbageReport:
    """Purge, condemn and sweep; with `wait`, stay for the grace time so that all is swept that is condemned now."""
    store.check_writable()
    backend, blobs, catalogue, reader = store.backend, store.blobs, store.catalogue, store.queries
    if not 0 <= grace_s < math.inf:
        raise InvalidSettingError(f"grace {grace_s:g} s is no time to wait: use 0 or above")
    start = time.time()
    before = datetime.fromtimestamp(start - grace_s, UTC).isoformat(timespec="milliseconds")
    files = {f.sha256: f for f in backend.list(BLOBS) if f.sha256 is not None}
    leftovers = [f for f in backend.list() if is_temporary(f.path) and f.modified_at <= start - grace_s]
    if dry_run:
        _check_readable(reader, blobs, purged_before=before)
        return _foresee(reader, files, leftovers, before=before, start=start, grace_s=grace_s, all_now=wait)
    purged = catalogue.purge(before)
    _check_readable(reader, blobs)
    marked = catalogue.write(lambda transaction: _mark(transaction, set(files), start), historic=False)
    if wait:
        time.sleep(grace_s)
    limit = (time.time() if wait else start) - grace_s  # however long it took to come here
    due = [digest for digest, since in marked.items() if since <= limit]
    freed: list[str] = []
    for first in range(0, len(due), BATCH):
        chosen = due[first : first + BATCH]
        freed += catalogue.write(partial(_sweep, backend=backend, digests=chosen), historic=False)
    backend.delete([f.path for f in leftovers])
    left = sorted(marked.keys() - set(freed))
    return _collection(files, purged, freed, left, leftovers)


def _mark(transaction: Transaction, present: set[str], now_s: float) -> dict[str, float]:
    """Condemn what nothing names and pardon what something names; return since when each is condemned."""
    connection = transaction.connection
    expired = sa.select(leases.c.id).where(leases.c.expires_at <= time.time())
    connection.execute(holds.delete().where(holds.c.lease.in_(expired)))
    connection.execute(leases.delete().where(leases.c.expires_at <= time.time()))
    unnamed = present - live_digests(transaction.queries)
    since = {row.digest: row.since for row in connection.execute(sa.select(condemned))}
    pardoned = [{"gone": digest} for digest in since.keys() - unnamed]
    if pardoned:
        connection.execute(condemned.delete().where(condemned.c.digest == sa.bindparam("gone")), pardoned)
    new = sorted(unnamed - since.keys())
    if new:
        connection.execute(condemned.insert(), [{"digest": digest, "since": now_s} for digest in new])
    return {digest: since.get(digest, now_s) for digest in sorted(unnamed)}


def _sweep(transaction: Transaction, *, backend: Backend, digests: list[str]) -> list[str]:
    """Delete those that are still condemned and unnamed; return them."""
    connection = transaction.connection
    still = [digest for digest in digests if _is_condemned(connection, digest) and not _is_named(connection, digest)]
    backend.delete([blob_key(digest) for digest in still])
    if still:
        gone = [{"gone": digest} for digest in still]
        connection.execute(condemned.delete().where(condemned.c.digest == sa.bindparam("gone")), gone)
    return still


def _is_condemned(connection: sa.Connection, digest: str) -> bool:
    row = connection.execute(sa.select(condemned.c.digest).where(condemned.c.digest == digest)).first()
    return row is not None


def _is_named(connection: sa.Connection, digest: str) -> bool:
    held = sa.select(holds.c.digest).join(leases, leases.c.id == holds.c.lease)
    asked = (
        sa.select(named.c.digest).where(named.c.digest == digest),
        sa.select(backbones.c.record).where(sa.or_(backbones.c.record == digest, backbones.c.weights == digest)),
        held.where(holds.c.digest == digest, leases.c.expires_at > time.time()),
    )
    return any(connection.execute(question.limit(1)).first() is not None for question in asked)


def live_digests(reader: Queries, *, purged_before: str | None = None) -> set[str]:
    """Return every digest that a version, a backbone or a lease names, but for versions about to be purged."""
    gone = {(row.task, row.version) for row in _outdated(reader, purged_before)}
    live = {blob.sha256 for task, version, blob, _ in reader.named() if (task, version) not in gone}
    live |= {blob.sha256 for _, blob in reader.backbone_blobs()}
    return live | {digest for lease in reader.leases(now_s=time.time()) for digest in lease.digests}


def _outdated(reader: Queries, before: str | None) -> list[VersionRow]:
    rows = reader.versions(removed=True) if before else []
    return [row for row in rows if row.removed_at and before and row.removed_at <= before]


def _check_readable(reader: Queries, blobs: Blobs, *, purged_before: str | None = None) -> None:
    """Raise `IntegrityError` where it is unknown what a version or a backbone names: its blobs would seem unnamed."""
    gone = {(row.task, row.version) for row in _outdated(reader, purged_before)}
    for task, version in reader.unreadable():
        if (task, version) not in gone:
            raise IntegrityError(
                f"the manifest of {task}:{version} could not be read when the catalogue was rebuilt, and names blobs "
                "that nobody knows: restore it, move the catalogue away and `onetrunk rebuild`, or remove the version"
            )
    for row in reader.backbones(without_weights=True):
        if read_backbone_record(blobs, row).weights is not None:
            raise IntegrityError(
                f"the catalogue does not know the weights of backbone {row.name}: move it away and `onetrunk rebuild`"
            )


def _foresee(
    reader: Queries,
    files: dict[str, StoredFile],
    leftovers: list[StoredFile],
    *,
    before: str,
    start: float,
    grace_s: float,
    all_now: bool,
) -> GarbageReport:
    purged = [f"{row.task}:{row.version}" for row in _outdated(reader, before)]
    unnamed = sorted(files.keys() - live_digests(reader, purged_before=before))
    since = reader.condemned()
    due = [d for d in unnamed if all_now or since.get(d, start) <= start - grace_s]
    return _collection(files, purged, due, [d for d in unnamed if d not in set(due)], leftovers)


def _collection(
    files: dict[str, StoredFile],
    purged: list[str],
    freed: list[str],
    left: list[str],
    leftovers: list[StoredFile],
) -> GarbageReport:
    return GarbageReport(
        purged=tuple(purged),
        freed=tuple(sorted(freed)),
        freed_nbytes=sum(files[d].nbytes for d in freed) + sum(f.nbytes for f in leftovers),
        condemned=tuple(left),
        condemned_nbytes=sum(files[d].nbytes for d in left),
        leftovers=tuple(f.path for f in leftovers),
    )
