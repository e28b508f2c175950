"""What a tenant sees of a task: its changes, and the servers that hold its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from store.records.events import Event


@dataclass(frozen=True)
class TaskEvent:
    """A change of one task, numbered from the task's first event; its place in the whole history is left out."""

    number: int
    at: str
    actor: str | None
    action: str
    version: int | None
    alias: str | None
    digest: str | None
    details: Mapping[str, object]

    @classmethod
    def of(cls, number: int, event: Event, *, operator: bool) -> TaskEvent:
        """Number the event; who is not the operator sees 'operator' instead of a user and a machine."""
        actor = event.actor if operator or (event.actor or "").startswith("key ") else "operator"
        target = (event.version, event.alias, event.digest)
        return cls(number, event.at, actor, event.action, *target, dict(event.details or {}))


@dataclass(frozen=True)
class TaskLease:
    """A server that holds a version of a task, until `expires_at` (seconds since the epoch) unless it asks again."""

    task: str
    version: int
    holder: str
    expires_at: float
