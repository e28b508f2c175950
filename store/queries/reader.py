"""Every query of the catalogue, in SQL that SQLite and PostgreSQL share.

With a catalogue in SQLite these need the standard library alone, so a command that only lists starts fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from store.errors import IntegrityError
from store.queries.accounting import AccountingQueries
from store.queries.history import HistoryQueries
from store.queries.sql import PROTECTED, api_key_of, at_most, in_tasks, scalar, within_tenant, without_none
from store.queries.versions import VersionQueries
from store.records.blob import Blob
from store.records.events import AliasRule, ApiKey, BackboneRow
from store.records.listing import Lease

ENDED_SESSION = "ended session"
"""The holder of a lease on nothing: a browser's session that was ended, until it would have expired."""

CATALOGUE_FORMAT = 2
"""Raise it when the tables change, and add the step to `store.maintenance.migrate`."""


class Queries(VersionQueries, HistoryQueries, AccountingQueries):
    """Every query in one class."""

    def format(self) -> int:
        with self.connect() as select:
            text = str(scalar(select("SELECT value FROM meta WHERE key = 'format'")) or 0)
        if not text.isascii() or not text.isdigit():
            raise IntegrityError(f"the catalogue has format {text[:40]!r}: restore it from a copy")
        return int(text)

    def identity(self) -> str | None:
        """Return the UUID of the store, which the first event names."""
        with self.connect() as select:
            uuid = scalar(select("SELECT subject FROM history WHERE number = 1"))
            return None if uuid is None else str(uuid)

    def backbones(self, *, without_weights: bool = False) -> list[BackboneRow]:
        """Return every backbone, or those without weights in the catalogue."""
        where = "WHERE weights IS NULL" if without_weights else ""
        with self.connect() as select:
            rows = select(f"SELECT name, fingerprint, record, record_nbytes FROM backbones {where} ORDER BY name")
            return [BackboneRow(*row) for row in rows]

    def backbone(self, name_or_fingerprint: str) -> BackboneRow | None:
        with self.connect() as select:
            rows = select(
                "SELECT name, fingerprint, record, record_nbytes FROM backbones "
                "WHERE name = :key OR fingerprint = :key",
                key=name_or_fingerprint,
            )
            return next((BackboneRow(*row) for row in rows), None)

    def backbone_blobs(self) -> list[tuple[str, Blob]]:
        """Return the blobs of backbones, each with the name of its backbone."""
        with self.connect() as select:
            rows = list(select("SELECT name, record, record_nbytes, weights, weights_nbytes FROM backbones"))
        records = [(name, Blob(record, nbytes)) for name, record, nbytes, _, _ in rows]
        return records + [(name, Blob(weights, nbytes or 0)) for name, _, _, weights, nbytes in rows if weights]

    def rules(self, task: str | None = None) -> list[AliasRule]:
        """Return every rule, or those that apply to a task: its own, then its tenant's, then those of all tasks."""
        scopes = [task, f"{task.partition('/')[0]}/*" if "/" in task else "*", "*"] if task else []
        where, parameters = in_tasks(scopes or None)
        with self.connect() as select:
            rows = [
                AliasRule(name, alias, PROTECTED.get(protected, protected), max_drop, min_accuracy)
                for name, alias, protected, max_drop, min_accuracy in select(
                    f"SELECT task, alias, protected, max_drop, min_accuracy FROM rules {where} ORDER BY task, alias",
                    **parameters,
                )
            ]
        return sorted(rows, key=lambda rule: scopes.index(rule.task)) if task else rows

    def api_keys(self, tenant: str | None = None, *, after: str = "", limit: int | None = None) -> list[ApiKey]:
        """Return every API key, or those of one tenant, by id: those after one, at most `limit` of them."""
        where = "AND tenant = :tenant" if tenant is not None else ""
        with self.connect() as select:
            return [
                api_key_of(row)
                for row in select(
                    "SELECT id, tenant, scopes, sha256, created_at, revoked_at FROM keys "
                    f"WHERE id > :after {where} ORDER BY id {at_most(limit)}",
                    **without_none(tenant=tenant, after=after, limit=limit),
                )
            ]

    def api_key(self, identifier: str) -> ApiKey | None:
        with self.connect() as select:
            rows = select(
                "SELECT id, tenant, scopes, sha256, created_at, revoked_at FROM keys WHERE id = :id", id=identifier
            )
            return next((api_key_of(row) for row in rows), None)

    def leases(self, *, now_s: float) -> list[Lease]:
        """Return the leases that have not expired."""
        digests = defaultdict(list)
        with self.connect() as select:
            rows = list(
                select(
                    "SELECT id, holder, expires_at FROM leases "
                    "WHERE expires_at > :now AND holder <> :session ORDER BY id",
                    now=now_s,
                    session=ENDED_SESSION,
                )
            )
            for lease, digest in select("SELECT lease, digest FROM holds ORDER BY digest"):
                digests[lease].append(digest)
        return [Lease(i, holder, expires_at, tuple(digests[i])) for i, holder, expires_at in rows]

    def has_ended(self, session: str) -> bool:
        with self.connect() as select:
            rows = select("SELECT 1 FROM leases WHERE id = :id AND holder = :holder", id=session, holder=ENDED_SESSION)
            return next(iter(rows), None) is not None

    def marks(self) -> dict[str, float]:
        """Return the digests that a collection has marked, and since when, in seconds since the epoch."""
        with self.connect() as select:
            return dict(select("SELECT digest, since FROM condemned"))

    def holders(self, digest: str, *, now_s: float) -> list[str]:
        """Return the holders of leases on the digest that have not expired."""
        with self.connect() as select:
            rows = select(
                "SELECT l.holder FROM holds h JOIN leases l ON l.id = h.lease "
                "WHERE h.digest = :digest AND l.expires_at > :now ORDER BY l.holder",
                digest=digest,
                now=now_s,
            )
            return [holder for (holder,) in rows]

    def version_blobs(self) -> Iterator[tuple[str, int, Blob, bool]]:
        """Yield every blob of every version, with task and number, and whether the version is removed."""
        with self.connect() as select:
            for task, version, digest, nbytes, removed_at in select(
                "SELECT n.task, n.version, n.digest, n.nbytes, v.removed_at FROM named n "
                "JOIN versions v ON v.task = n.task AND v.version = n.version"
            ):
                yield task, version, Blob(digest, nbytes), removed_at is not None

    def blobs_by_version(self, task: str) -> dict[int, set[tuple[str, int]]]:
        """Return digest and size of each blob that a version of a task references, by version, removed ones too."""
        blobs: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        with self.connect() as select:
            for version, digest, nbytes in select(
                "SELECT version, digest, nbytes FROM named WHERE task = :task", task=task
            ):
                blobs[version].add((digest, nbytes))
        return blobs

    def freed_nbytes(self, task: str, versions: Iterable[int], *, tenant: str | None = None) -> int:
        """Return the bytes of blobs that only these versions and removed ones reference, among all tasks or those of
        one tenant.
        """
        removal = {(task, version) for version in versions}
        freed: dict[str, int] = {}
        with self.connect() as select:
            for version in sorted(version for _, version in removal):
                for digest, nbytes in select(
                    "SELECT digest, nbytes FROM named WHERE task = :task AND version = :version",
                    task=task,
                    version=version,
                ):
                    freed[digest] = nbytes
            for digest in list(freed):
                references = select(
                    "SELECT n.task, n.version FROM named n "
                    "JOIN versions v ON v.task = n.task AND v.version = n.version "
                    f"WHERE n.digest = :digest AND v.removed_at IS NULL {within_tenant(tenant, 'n.task')}",
                    **without_none(digest=digest, tenant=tenant),
                )
                if not all(reference in removal for reference in references):
                    del freed[digest]
        return sum(freed.values())
