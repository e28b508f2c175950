"""The history: a chain of events, each with the digest of the one before, and the state that they add up to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property

from store.errors import FormatError
from store.records.blob import canonical_json

GENESIS = "0" * 64
LATEST = "latest"
SINCE_FORMAT_2 = ("actor", "details", "batch")
TASK_ACTIONS = frozenset({"publish", "alias", "alias-rm", "split", "split-rm", "rule", "tag", "rm", "restore", "purge"})
"""Actions whose subject is a task; backbones and keys may have the same names."""


@dataclass(frozen=True)
class Event:
    """One change; `subject` is the task, backbone or key, `previous` the digest of the event before it.

    `batch` is the number of the first event of the same transaction, None in what format 1 wrote.
    """

    number: int
    at: str
    action: str
    subject: str
    version: int | None
    alias: str | None
    digest: str | None
    previous: str
    actor: str | None = None
    details: Mapping[str, object] | None = None
    batch: int | None = None

    def to_json(self) -> bytes:
        """Encode canonically; keys that format 1 lacks are left out where they are not set."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        columns = {name: getattr(self, name) for name in COLUMNS}
        for name in SINCE_FORMAT_2:
            if columns[name] is None:
                del columns[name]
        return canonical_json(columns)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()


COLUMNS = tuple(column.name for column in fields(Event))


@dataclass(frozen=True)
class AliasRule:
    """What an alias of a task requires before it moves: `force`, and a certificate (`max_drop` in points, 0..100).

    `task` may be `*` or `TENANT/*`, for every task without a rule of its own.
    """

    task: str
    alias: str
    protected: bool = False
    max_drop: float | None = None
    min_accuracy: float | None = None


@dataclass(frozen=True)
class ApiKey:
    """An API key; `tenant` is None for the operator's. Only the SHA-256 of the secret is kept."""

    id: str
    tenant: str | None
    scopes: tuple[str, ...]
    sha256: str
    created_at: str
    revoked_at: str | None = None


@dataclass(frozen=True)
class BackboneRow:
    name: str
    fingerprint: str
    record: str
    record_nbytes: int


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def parse_details(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        details = json.loads(text)
    except (ValueError, RecursionError):
        details = None
    if not isinstance(details, dict):
        raise FormatError(
            f"an event has details {text[:60]!r}, expected a JSON object: the history was changed; "
            "restore the catalogue from a copy"
        )
    return details
