"""API keys in the catalogue: kept and revoked."""

from __future__ import annotations

from dataclasses import asdict

from store.catalogue.schema import keys
from store.catalogue.transaction import Transaction
from store.errors import ConflictError, NotFoundError
from store.records.events import ApiKey


def put_key(transaction: Transaction, key: ApiKey) -> ApiKey:
    """Keep an API key; its time of creation is the event's."""
    if transaction.queries.api_key(key.id) is not None:
        raise ConflictError(f"API key {key.id[:40]!r} exists already: make one with another id")
    details = {"tenant": key.tenant, "scopes": list(key.scopes), "sha256": key.sha256}
    event = transaction.record("key", key.id, details=details)
    kept = ApiKey(key.id, key.tenant, key.scopes, key.sha256, event.at)
    transaction.connection.execute(keys.insert().values(**row_of_key(kept)))
    return kept


def revoke_key(transaction: Transaction, identifier: str) -> None:
    """Revoke a key; revoking it twice changes nothing."""
    key = transaction.queries.api_key(identifier)
    if key is None:
        raise NotFoundError(f"no API key {identifier[:40]!r}: see `store.api_keys()`")
    if key.revoked_at is None:
        event = transaction.record("key-revoke", identifier)
        transaction.connection.execute(keys.update().where(keys.c.id == identifier).values(revoked_at=event.at))


def row_of_key(key: ApiKey) -> dict[str, object]:
    return {**asdict(key), "scopes": " ".join(key.scopes)}
