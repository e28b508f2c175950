"""Leases in the catalogue: they protect what a publish in flight or a replica holds from removal and collection."""

from __future__ import annotations

import time
from collections.abc import Iterable

import sqlalchemy as sa

from store.catalogue.schema import holds, leases, versions
from store.catalogue.transaction import Transaction
from store.errors import ConflictError, VersionNotFoundError
from store.queries.reader import ENDED_SESSION

PUBLISHING = "publish"
"""The holder of the blobs of a publish in flight: they stay, but versions that have them already may be removed."""

# Built once: building a statement costs SQLAlchemy more than SQLite takes to run it.
INSERT_LEASE = leases.insert()
INSERT_HOLDS = holds.insert()
RENEW = leases.update().where(leases.c.id == sa.bindparam("of_lease")).values(expires_at=sa.bindparam("until"))
EXPIRES = sa.select(leases.c.expires_at).where(leases.c.id == sa.bindparam("lease"))
HELD = sa.select(holds.c.digest).where(holds.c.lease == sa.bindparam("lease"))
DROP = holds.delete().where(holds.c.lease == sa.bindparam("of_lease"), holds.c.digest == sa.bindparam("of_digest"))
AVAILABLE = (
    sa.select(versions.c.task)
    .where(versions.c.digest == sa.bindparam("digest"), versions.c.removed_at.is_(None))
    .limit(1)
)
END_HOLDS = holds.delete().where(holds.c.lease == sa.bindparam("of_lease"))
END_LEASE = leases.delete().where(leases.c.id == sa.bindparam("of_lease"))
FORGET_SESSIONS = leases.delete().where(
    leases.c.holder == sa.bindparam("session"), leases.c.expires_at <= sa.bindparam("now")
)
END_VALID = END_LEASE.where(leases.c.expires_at > sa.bindparam("now"))


def take_lease(transaction: Transaction, lease: str, digests: Iterable[str], *, holder: str, expires_at: float) -> None:
    """Hold the digests under a lease that is new."""
    transaction.execute(INSERT_LEASE, {"id": lease, "holder": holder, "expires_at": expires_at})
    _insert(transaction, lease, set(digests))


def serve_lease(
    transaction: Transaction, lease: str, digests: Iterable[str], *, holder: str, expires_at: float
) -> None:
    """Let the lease hold exactly these versions; raise where one that it did not hold yet is not available."""
    served, until = set(digests), transaction.connection.scalar(EXPIRES, {"lease": lease})
    held = set(transaction.connection.scalars(HELD, {"lease": lease})) if until is not None else set()
    _check_available(transaction, served if until is None or until <= time.time() else served - held)
    if until is None:
        take_lease(transaction, lease, served, holder=holder, expires_at=expires_at)
        return
    transaction.execute(RENEW, {"of_lease": lease, "until": expires_at})
    if dropped := held - served:
        transaction.execute(DROP, *({"of_lease": lease, "of_digest": digest} for digest in sorted(dropped)))
    _insert(transaction, lease, served - held)


def end_session(transaction: Transaction, session: str, *, expires_at: float) -> None:
    """Note that a session was ended, and forget those that have expired since."""
    transaction.execute(FORGET_SESSIONS, {"session": ENDED_SESSION, "now": time.time()})
    if transaction.connection.scalar(EXPIRES, {"lease": session}) is None:
        take_lease(transaction, session, (), holder=ENDED_SESSION, expires_at=expires_at)


def release_lease(transaction: Transaction, lease: str) -> None:
    transaction.execute(END_HOLDS, {"of_lease": lease})
    transaction.execute(END_LEASE, {"of_lease": lease})


def end_lease(transaction: Transaction, lease: str) -> None:
    """End the lease of a publish; raise `ConflictError` where it has expired, as its blobs may have been collected."""
    transaction.execute(END_HOLDS, {"of_lease": lease})
    if transaction.execute(END_VALID, {"of_lease": lease, "now": time.time()}) != 1:
        raise ConflictError(
            "the publish took longer than its lease, and what it wrote may have been collected: publish again"
        )


def _check_available(transaction: Transaction, digests: set[str]) -> None:
    """Raise `VersionNotFoundError` unless each digest is of a version that is not removed."""
    for digest in sorted(digests):
        if transaction.connection.execute(AVAILABLE, {"digest": digest}).first() is None:
            raise VersionNotFoundError(f"version sha256:{digest[:16]}… was removed: name another")


def _insert(transaction: Transaction, lease: str, digests: set[str]) -> None:
    if digests:
        transaction.execute(INSERT_HOLDS, *({"lease": lease, "digest": digest} for digest in sorted(digests)))
