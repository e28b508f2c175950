"""Backbones in the catalogue: added, given another record, removed."""

from __future__ import annotations

import sqlalchemy as sa

from store.catalogue.leases import end_lease
from store.catalogue.schema import backbones, versions
from store.catalogue.transaction import Transaction
from store.catalogue.versions import unmark
from store.errors import BackboneNotFoundError, ConflictError, InUseError, InvalidNameError
from store.queries.reader import Queries
from store.records.backbone import BackboneRecord
from store.records.blob import SHA256, Blob
from store.records.events import BackboneRow


def check_backbone_name(queries: Queries, name: str, fingerprint: str) -> None:
    """Raise `ConflictError` where another backbone has the name, `InvalidNameError` where it could be a fingerprint."""
    if SHA256.fullmatch(name):
        raise InvalidNameError(f"backbone name {name!r} looks like a fingerprint: choose another with `label=`")
    holder = queries.backbone(name)
    if holder is not None and holder.name == name and holder.fingerprint != fingerprint:
        raise ConflictError(
            f"backbone name {name!r} is taken by fingerprint {holder.fingerprint}: choose another for {fingerprint}"
        )


def put_backbone(
    transaction: Transaction, record: BackboneRecord, record_blob: Blob, *, seen: BackboneRow | None, lease: str | None
) -> bool:
    """Add the backbone, or write another record for `seen`; return False where the catalogue no longer has `seen`."""
    fingerprint, weights = record.id.fingerprint, record.weights
    row = {
        "record": record_blob.sha256,
        "record_nbytes": record_blob.nbytes,
        "weights": weights.sha256 if weights else None,
        "weights_nbytes": weights.nbytes if weights else None,
    }
    if lease is not None:
        end_lease(transaction, lease)
    check_backbone_name(transaction.queries, record.name, fingerprint)
    if transaction.queries.backbone(fingerprint) != seen:
        return False
    if seen is None:
        transaction.connection.execute(backbones.insert().values(name=record.name, fingerprint=fingerprint, **row))
    else:
        same = backbones.c.fingerprint == fingerprint
        transaction.connection.execute(backbones.update().where(same).values(**row))
        unmark(transaction, [seen.record])
    details = {"fingerprint": fingerprint, "nbytes": record_blob.nbytes}
    transaction.record("backbone", record.name, digest=record_blob.sha256, details=details)
    return True


def remove_backbone(transaction: Transaction, fingerprint: str, name: str) -> None:
    """Remove a backbone; raise `InUseError` while a version uses it."""
    if transaction.queries.backbone(fingerprint) is None:
        raise BackboneNotFoundError(f"backbone {name!r} has just been removed: see `store.backbones()`")
    users = transaction.connection.scalar(
        sa.select(sa.func.count()).select_from(versions).where(versions.c.backbone == fingerprint)
    )
    if users:
        use = "version uses" if users == 1 else "versions use"
        raise InUseError(
            f"{users} {use} backbone {name!r}, counting removed ones until `collect_garbage(store)` purges them: "
            "remove them first"
        )
    unmark(transaction, [blob.sha256 for owner, blob in transaction.queries.backbone_blobs() if owner == name])
    transaction.connection.execute(backbones.delete().where(backbones.c.fingerprint == fingerprint))
    transaction.record("backbone-rm", name, details={"fingerprint": fingerprint})
