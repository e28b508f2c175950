"""Change what exists and by which names, in transactions that write their own history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TypeVar

import sqlalchemy as sa

from store.catalogue.aliases import (
    check_protected,
    delete_alias,
    move_alias,
    require,
    rollback_target,
    rule_of,
    write_alias,
)
from store.catalogue.database import Database
from store.catalogue.leases import end_lease, release_lease, serve_lease, take_lease
from store.catalogue.removal import Removal, leaving, removal_of
from store.catalogue.schema import backbones, keys, meta, rules, schema, tags, versions
from store.catalogue.transaction import Transaction
from store.catalogue.versions import add_version, check_backbone_name, mark_removed, pardon, purge_version
from store.errors import BackboneNotFoundError, ConflictError, InUseError, NotFoundError, VersionNotFoundError
from store.queries.reader import CATALOGUE_FORMAT
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.events import LATEST, AliasRule, ApiKey, BackboneRow, Event
from store.records.evidence import Certificate
from store.records.listing import CatalogueEntry, VersionRow
from store.records.refs import Ref

T = TypeVar("T")


class Catalogue:
    """Every verb that changes the catalogue; `committed` hears of a transaction before its caller does."""

    def __init__(
        self, database: Database, *, actor: str | None, committed: Callable[[list[Event], int | None], None]
    ) -> None:
        self.database = database
        self.actor = actor
        self._committed = committed

    def close(self) -> None:
        self.database.close()

    def write(self, change: Callable[[Transaction], T], *, actor: str | None = None, historic: bool = True) -> T:
        """Run the change in a transaction; raise what it raises, with nothing changed.

        A change that finds all as it should be acknowledges what an earlier one did, who may have died before its
        journal: so `committed` hears of it too, unless the change is none that history tells of (`historic`).
        """
        with self.database.write() as connection:
            transaction = Transaction(connection, actor or self.actor)
            result = change(transaction)
        if historic:
            self._committed(transaction.events, transaction.previous_batch)
        return result

    def create(self, identity: str, *, check: Callable[[], None]) -> None:
        """Make the tables unless they are there; the first event ties them to the store of this identity.

        `check` raises where the store has a history already, and must not begin another.
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
        self, record: BackboneRecord, kept_as: Blob, *, seen: BackboneRow | None, lease: str | None = None
    ) -> bool:
        """Add the backbone, or give the one that was seen another record; say whether it was still what was seen."""
        fingerprint, weights = record.id.fingerprint, record.weights
        row = {
            "record": kept_as.sha256,
            "record_nbytes": kept_as.nbytes,
            "weights": weights.sha256 if weights else None,
            "weights_nbytes": weights.nbytes if weights else None,
        }

        def change(transaction: Transaction) -> bool:
            if lease is not None:
                end_lease(transaction, lease)
            check_backbone_name(transaction.queries, record.name, fingerprint)
            if transaction.queries.backbone(fingerprint) != seen:
                return False
            if seen is None:
                transaction.connection.execute(
                    backbones.insert().values(name=record.name, fingerprint=fingerprint, **row)
                )
            else:
                same = backbones.c.fingerprint == fingerprint
                transaction.connection.execute(backbones.update().where(same).values(**row))
                pardon(transaction, [seen.record])
            details = {"fingerprint": fingerprint, "nbytes": kept_as.nbytes}
            transaction.record("backbone", record.name, digest=kept_as.sha256, details=details)
            return True

        return self.write(change)

    def remove_backbone(self, fingerprint: str, name: str) -> None:
        """Forget a backbone that no version stands on."""

        def change(transaction: Transaction) -> None:
            if transaction.queries.backbone(fingerprint) is None:
                raise BackboneNotFoundError(f"backbone {name!r} has just been removed: see `onetrunk backbone ls`")
            users = transaction.connection.scalar(
                sa.select(sa.func.count()).select_from(versions).where(versions.c.backbone == fingerprint)
            )
            if users:
                raise InUseError(
                    f"{users} versions stand on backbone {name!r}, removed ones until `onetrunk gc` among them: "
                    "remove them first"
                )
            pardon(transaction, [blob.sha256 for owner, blob in transaction.queries.backbone_blobs() if owner == name])
            transaction.connection.execute(backbones.delete().where(backbones.c.fingerprint == fingerprint))
            transaction.record("backbone-rm", name, details={"fingerprint": fingerprint})

        self.write(change)

    def publish(
        self,
        task: str,
        entry: CatalogueEntry,
        *,
        names: tuple[str, ...],
        lease: str | None = None,
        force: bool = False,
        actor: str | None = None,
    ) -> VersionRow:
        """Return the version of this manifest, a new one unless the task has it, and point the aliases at it.

        A removed version of the same content is restored. `lease` is the one that protected the blobs until now.
        """

        def change(transaction: Transaction) -> VersionRow:
            if lease is not None:
                end_lease(transaction, lease)
            number = add_version(transaction, task, entry)
            for alias in names:
                move_alias(transaction, task, alias, number, entry.certificate, force=force)
            return require(transaction.queries, task, number)

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
        """Point the alias at a version, if its rule lets it."""

        def change(transaction: Transaction) -> None:
            require(transaction.queries, task, version)
            move_alias(transaction, task, alias, version, certificate, force=force)

        self.write(change)

    def rollback(
        self, task: str, alias: str, certify: Callable[[VersionRow], Certificate | None], *, force: bool
    ) -> VersionRow:
        """Point the alias at the version that it named before; `certify` reads the certificate of a version."""

        def change(transaction: Transaction) -> VersionRow:
            there = {row.version for row in transaction.queries.versions(task)}
            target = rollback_target(transaction.queries.history(task), alias, there)
            if target is None:
                raise VersionNotFoundError(
                    f"{task}@{alias} has no earlier version that is still there: see `onetrunk history {task}`"
                )
            row = require(transaction.queries, task, target)
            move_alias(transaction, task, alias, target, certify(row), force=force, rollback=True)
            return require(transaction.queries, task, target)

        return self.write(change)

    def remove_alias(self, task: str, alias: str, *, force: bool) -> None:
        def change(transaction: Transaction) -> None:
            if alias not in transaction.queries.aliases(task):
                raise VersionNotFoundError(f"{task} has no alias {alias!r}: see `onetrunk alias ls {task}`")
            check_protected(rule_of(transaction.queries, task, alias), task, force=force)
            delete_alias(transaction, task, alias)

        self.write(change)

    def set_rule(self, rule: AliasRule) -> None:
        """Set the rule of an alias; one that asks nothing takes it away."""

        def change(transaction: Transaction) -> None:
            nothing = AliasRule(rule.task, rule.alias)
            known = {(known.task, known.alias): known for known in transaction.queries.rules()}
            if known.get((rule.task, rule.alias), nothing) == rule:
                return
            place = (rules.c.task == rule.task) & (rules.c.alias == rule.alias)
            transaction.connection.execute(rules.delete().where(place))
            asks = {"protected": rule.protected, "max_drop": rule.max_drop, "min_accuracy": rule.min_accuracy}
            if rule != nothing:
                row = {**asks, "protected": int(rule.protected)}
                transaction.connection.execute(rules.insert().values(task=rule.task, alias=rule.alias, **row))
            transaction.record("rule", rule.task, alias=rule.alias, details=asks)

        self.write(change)

    def set_tag(self, task: str, version: int, key: str, value: str | None) -> None:
        """Set a tag of a version, or of the task where the version is 0; None takes it away."""

        def change(transaction: Transaction) -> None:
            if version:
                require(transaction.queries, task, version)
            current = transaction.queries.tags(task, version).get(key)
            if current == value:
                return
            place = (tags.c.task == task) & (tags.c.version == version) & (tags.c.key == key)
            transaction.connection.execute(tags.delete().where(place))
            if value is not None:
                transaction.connection.execute(tags.insert().values(task=task, version=version, key=key, value=value))
            transaction.record("tag", task, version=version or None, details={"key": key, "value": value})

        self.write(change)

    def remove(self, task: str, wanted: Ref | None, *, tenant: str | None = None) -> Removal:
        """Make one version or, where none is named, all of them invisible; raise as `leaving` does."""

        def change(transaction: Transaction) -> Removal:
            rows, whole = leaving(transaction.queries, task, wanted), wanted is None
            removal = removal_of(transaction.queries, task, rows, tenant=tenant)
            if whole and LATEST in transaction.queries.aliases(task):
                delete_alias(transaction, task, LATEST)
            for row in rows:
                event = transaction.record("rm", task, version=row.version)
                mark_removed(transaction, task, row.version, event.at)
            return removal

        return self.write(change)

    def restore(self, task: str, version: int | None) -> list[int]:
        """Bring back one removed version, or all, and point `latest` at the newest where it names none."""

        def change(transaction: Transaction) -> list[int]:
            gone = [row for row in transaction.queries.versions(task, removed=True) if row.removed_at is not None]
            chosen = [row for row in gone if version in (None, row.version)]
            if not chosen:
                wanted = f"{task}:{version}" if version else task
                raise VersionNotFoundError(
                    f"{wanted} has nothing to restore: it was not removed, or `onetrunk gc` has freed it"
                )
            for row in chosen:
                transaction.record("restore", task, version=row.version)
                mark_removed(transaction, task, row.version, None)
            if LATEST not in transaction.queries.aliases(task):
                newest = max(row.version for row in transaction.queries.versions(task))
                write_alias(transaction, task, LATEST, newest, current=None)
            return [row.version for row in chosen]

        return self.write(change)

    def put_key(self, key: ApiKey) -> ApiKey:
        """Keep an API key; its time of creation is the event's."""

        def change(transaction: Transaction) -> ApiKey:
            if transaction.queries.key(key.id) is not None:
                raise ConflictError(f"API key {key.id[:40]!r} is there already: make one with another id")
            details = {"tenant": key.tenant, "scopes": list(key.scopes), "sha256": key.sha256}
            event = transaction.record("key", key.id, details=details)
            kept = ApiKey(key.id, key.tenant, key.scopes, key.sha256, event.at)
            transaction.connection.execute(keys.insert().values(**{**asdict(kept), "scopes": " ".join(key.scopes)}))
            return kept

        return self.write(change)

    def revoke_key(self, identifier: str) -> None:
        """Make a key worthless from now on; revoking twice changes nothing."""

        def change(transaction: Transaction) -> None:
            key = transaction.queries.key(identifier)
            if key is None:
                raise NotFoundError(f"no API key {identifier[:40]!r}: see `onetrunk key ls`")
            if key.revoked_at is None:
                event = transaction.record("key-revoke", identifier)
                transaction.connection.execute(keys.update().where(keys.c.id == identifier).values(revoked_at=event.at))

        self.write(change)

    def lease(
        self, identifier: str, digests: Iterable[str], *, holder: str, expires_at: float, served: bool = False
    ) -> None:
        """Hold digests until a time; a lease of served versions may be renewed, and they must still be there."""
        take = serve_lease if served else take_lease
        self.write(
            lambda transaction: take(transaction, identifier, digests, holder=holder, expires_at=expires_at),
            historic=False,
        )

    def release(self, identifier: str) -> None:
        self.write(lambda transaction: release_lease(transaction, identifier), historic=False)

    def purge(self, before: str) -> list[str]:
        """Forget versions removed before a time (ISO 8601); return `TASK:NUMBER` of each."""

        def change(transaction: Transaction) -> list[str]:
            gone = [
                row for row in transaction.queries.versions(removed=True) if row.removed_at and row.removed_at <= before
            ]
            for row in gone:
                transaction.record("purge", row.task, version=row.version)
                purge_version(transaction, row.task, row.version)
            return [f"{row.task}:{row.version}" for row in gone]

        return self.write(change)
