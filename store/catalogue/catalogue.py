"""The operations that change the catalogue, each one transaction that records its own events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from store.catalogue.aliases import check_protected, rollback_target, rule_of
from store.catalogue.api_keys import put_key, revoke_key
from store.catalogue.backbones import put_backbone, remove_backbone
from store.catalogue.database import Database
from store.catalogue.leases import end_lease, end_session, release_lease, serve_lease, take_lease
from store.catalogue.removal import Removal, removable_versions, removal_of
from store.catalogue.schema import meta, rules, schema, tags
from store.catalogue.splits import put_split, remove_split, settle_split
from store.catalogue.transaction import Transaction
from store.catalogue.versions import add_version, purge_version, require_version, set_removed
from store.errors import ClosedStoreError, VersionNotFoundError
from store.queries.reader import CATALOGUE_FORMAT
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.events import LATEST, AliasRule, ApiKey, BackboneRow, Event
from store.records.evidence import Certificate
from store.records.listing import CatalogueEntry, VersionRow
from store.records.refs import Ref
from store.records.splits import AliasSplit

T = TypeVar("T")


class Catalogue:
    """Change the catalogue; `committed` is called with the events of each transaction before the operation returns."""

    def __init__(
        self, database: Database, *, actor: str | None, committed: Callable[[list[Event], int | None], None]
    ) -> None:
        self.database = database
        self.actor = actor
        self._committed = committed
        self._closed = False

    def close(self) -> None:
        """Change nothing more."""
        self._closed = True
        self.database.close()

    def write(self, change: Callable[[Transaction], T], *, actor: str | None = None, historic: bool = True) -> T:
        """Run the change in a transaction; what it raises is raised, and nothing is changed.

        A change that records no event may repeat an earlier one, whose writer died before it wrote the journal. So
        `committed` is called for it too, unless the history does not record changes of its kind (`historic=False`).
        """
        if self._closed:
            raise ClosedStoreError("the store was closed: open it again with `open_store(url)`")
        with self.database.write() as connection:
            transaction = Transaction(connection, actor or self.actor)
            result = change(transaction)
        if historic:
            self._committed(transaction.events, transaction.previous_batch)
        return result

    def create(self, identity: str, *, check: Callable[[], None]) -> None:
        """Create the tables unless they exist; the first event names the identity of the store.

        `check` raises where the store has a history already: it must not get a second one.
        """
        with self.database.write() as connection:
            if sa.inspect(connection).has_table("meta"):
                return
            check()
            schema.create_all(connection)
            connection.execute(meta.insert().values(key="format", value=str(CATALOGUE_FORMAT)))
            transaction = Transaction(connection, self.actor)
            transaction.record("create", identity)
        self._committed(transaction.events, transaction.previous_batch)

    def put_backbone(
        self, record: BackboneRecord, record_blob: Blob, *, seen: BackboneRow | None, lease: str | None = None
    ) -> bool:
        """Add the backbone, or write another record for `seen`; return False where the catalogue no longer has it.

        `seen` is what the caller read of the backbone before. `lease` is the one that has protected the blobs so far.
        """
        return self.write(lambda transaction: put_backbone(transaction, record, record_blob, seen=seen, lease=lease))

    def remove_backbone(self, fingerprint: str, name: str) -> None:
        """Remove a backbone; raise `InUseError` while a version uses it."""
        self.write(lambda transaction: remove_backbone(transaction, fingerprint, name))

    def publish(
        self,
        task: str,
        entry: CatalogueEntry,
        *,
        aliases: tuple[str, ...],
        lease: str | None = None,
        force: bool = False,
        actor: str | None = None,
    ) -> VersionRow:
        """Return the version with this manifest, a new one unless the task has it, and point the aliases at it.

        A removed version of the same content is restored. `lease` is the one that has protected the blobs so far.
        """

        def change(transaction: Transaction) -> VersionRow:
            if lease is not None:
                end_lease(transaction, lease)
            number = add_version(transaction, task, entry)
            for alias in aliases:
                transaction.move_alias(task, alias, number, entry.certificate, force=force)
            return require_version(transaction.queries, task, number)

        return self.write(change, actor=actor)

    def set_alias(
        self,
        task: str,
        alias: str,
        version: int,
        certificate: Certificate | None,
        *,
        force: bool = False,
    ) -> None:
        """Point the alias at a version, if its rule allows it."""

        def change(transaction: Transaction) -> None:
            require_version(transaction.queries, task, version)
            transaction.move_alias(task, alias, version, certificate, force=force)

        self.write(change)

    def rollback(
        self, task: str, alias: str, certify: Callable[[VersionRow], Certificate | None], *, force: bool
    ) -> VersionRow:
        """Point the alias at the version before its current one; `certify` reads the certificate of a version.

        A split alias goes back to its stable version.
        """

        def change(transaction: Transaction) -> VersionRow:
            split = transaction.queries.split(task, alias)
            if split is not None:
                remove_split(transaction, split, force=force, details={"rollback": True})
                row = require_version(transaction.queries, task, split.stable)
                certify(row)
                return row
            available = {row.version for row in transaction.queries.versions(task)}
            target = rollback_target(transaction.queries.history(task), alias, available)
            if target is None:
                raise VersionNotFoundError(
                    f"{task}@{alias} has no earlier version that is still there: see `store.history(task)`"
                )
            row = require_version(transaction.queries, task, target)
            transaction.move_alias(task, alias, target, certify(row), force=force, rollback=True)
            return require_version(transaction.queries, task, target)

        return self.write(change)

    def split_alias(
        self, split: AliasSplit, certificates: Mapping[int, Certificate | None], *, force: bool
    ) -> AliasSplit:
        """Split the alias, whose rule every version that answers must keep; return the split with its number."""
        return self.write(lambda transaction: put_split(transaction, split, certificates, force=force))

    def end_split(self, task: str, alias: str, *, force: bool) -> AliasSplit:
        """Send all requests to the stable version again; return what the split was."""

        def change(transaction: Transaction) -> AliasSplit:
            split = transaction.queries.split(task, alias)
            if split is None:
                raise VersionNotFoundError(f"{task}@{alias} is not split: see `store.splits(task)`")
            remove_split(transaction, split, force=force)
            return split

        return self.write(change)

    def settle_split(self, split: AliasSplit, evidence: Mapping[str, object], *, promote: bool) -> bool:
        """End this very split by its own rules, unless it has ended already; return whether it was ended here."""
        return self.write(lambda transaction: settle_split(transaction, split, evidence, promote=promote))

    def remove_alias(self, task: str, alias: str, *, force: bool) -> None:
        def change(transaction: Transaction) -> None:
            if alias not in transaction.queries.aliases(task):
                raise VersionNotFoundError(f"{task} has no alias {alias!r}: see `store.aliases(task)`")
            check_protected(rule_of(transaction.queries, task, alias), task, force=force)
            transaction.delete_alias(task, alias)

        self.write(change)

    def set_rule(self, rule: AliasRule) -> None:
        """Set the rule of an alias; an empty rule deletes it."""

        def change(transaction: Transaction) -> None:
            empty = AliasRule(rule.task, rule.alias)
            known = {(known.task, known.alias): known for known in transaction.queries.rules()}
            if known.get((rule.task, rule.alias), empty) == rule:
                return
            same = (rules.c.task == rule.task) & (rules.c.alias == rule.alias)
            transaction.connection.execute(rules.delete().where(same))
            requirements = {"protected": rule.protected, "max_drop": rule.max_drop, "min_accuracy": rule.min_accuracy}
            if rule != empty:
                row = {**requirements, "protected": int(rule.protected)}
                transaction.connection.execute(rules.insert().values(task=rule.task, alias=rule.alias, **row))
            transaction.record("rule", rule.task, alias=rule.alias, details=requirements)

        self.write(change)

    def set_tag(self, task: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version, or of the task where the version is 0; None deletes it."""

        def change(transaction: Transaction) -> None:
            if version:
                require_version(transaction.queries, task, version)
            current = transaction.queries.tags(task, version).get(key)
            if current == value:
                return
            same = (tags.c.task == task) & (tags.c.version == version) & (tags.c.key == key)
            transaction.connection.execute(tags.delete().where(same))
            if value is not None:
                transaction.connection.execute(tags.insert().values(task=task, version=version, key=key, value=value))
            transaction.record("tag", task, version=version or None, details={"key": key, "value": value})

        self.write(change)

    def remove(self, task: str, ref: Ref | None, *, tenant: str | None = None) -> Removal:
        """Make one version invisible, or without a ref all of the task; raise as `removable_versions` does."""

        def change(transaction: Transaction) -> Removal:
            rows = removable_versions(transaction.queries, task, ref)
            removal = removal_of(transaction.queries, task, rows, tenant=tenant)
            if ref is None and LATEST in transaction.queries.aliases(task):
                transaction.delete_alias(task, LATEST)
            for row in rows:
                event = transaction.record("rm", task, version=row.version)
                set_removed(transaction, task, row.version, event.at)
            return removal

        return self.write(change)

    def restore(self, task: str, version: int | None) -> list[int]:
        """Restore one removed version, or all of them; a task without `latest` gets it again, at its newest version."""

        def change(transaction: Transaction) -> list[int]:
            removed = [row for row in transaction.queries.versions(task, removed=True) if row.removed_at is not None]
            chosen = [row for row in removed if version in (None, row.version)]
            if not chosen:
                name = f"{task}:{version}" if version else task
                raise VersionNotFoundError(
                    f"{name} has nothing to restore: it was not removed, or `collect_garbage(store)` has freed it"
                )
            for row in chosen:
                transaction.record("restore", task, version=row.version)
                set_removed(transaction, task, row.version, None)
            if LATEST not in transaction.queries.aliases(task):
                newest = max(row.version for row in transaction.queries.versions(task))
                transaction.write_alias(task, LATEST, newest, current=None)
            return [row.version for row in chosen]

        return self.write(change)

    def put_key(self, key: ApiKey) -> ApiKey:
        """Keep an API key; its time of creation is the event's."""
        return self.write(partial(put_key, key=key))

    def revoke_key(self, identifier: str) -> None:
        """Revoke a key; revoking it twice changes nothing."""
        self.write(partial(revoke_key, identifier=identifier))

    def lease(
        self, identifier: str, digests: Iterable[str], *, holder: str, expires_at: float, served: bool = False
    ) -> None:
        """Hold digests until a time; a lease of served versions may be renewed, and the versions must still exist."""
        take = serve_lease if served else take_lease
        self.write(
            lambda transaction: take(transaction, identifier, digests, holder=holder, expires_at=expires_at),
            historic=False,
        )

    def end_session(self, identifier: str, *, expires_at: float) -> None:
        """Let a browser's session be over for every server over this catalogue, until it would have expired."""
        self.write(lambda transaction: end_session(transaction, identifier, expires_at=expires_at), historic=False)

    def release(self, identifier: str) -> None:
        self.write(lambda transaction: release_lease(transaction, identifier), historic=False)

    def purge(self, before: str) -> list[str]:
        """Purge versions removed up to a time (ISO 8601); return `TASK:NUMBER` of each."""

        def change(transaction: Transaction) -> list[str]:
            rows = transaction.queries.versions(removed=True)
            outdated = [row for row in rows if row.removed_at and row.removed_at <= before]
            for row in outdated:
                transaction.record("purge", row.task, version=row.version)
                purge_version(transaction, row.task, row.version)
            return [f"{row.task}:{row.version}" for row in outdated]

        return self.write(change)
