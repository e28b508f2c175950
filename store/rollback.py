"""Which version an alias named before."""

from __future__ import annotations

from collections.abc import Iterable

from store.events import Event


def rollback_target(events: Iterable[Event], alias: str, available: set[int]) -> int | None:
    """Return the version that the alias named before the one that it names; a rollback goes back further each time."""
    trail: list[int] = []
    for event in events:
        if event.alias != alias or event.action not in ("alias", "alias-rm"):
            continue
        if event.action == "alias-rm":
            trail.clear()
        elif (event.details or {}).get("rollback"):
            while trail and trail[-1] != event.version:
                trail.pop()
        elif event.version is not None:
            trail.append(event.version)
    current = trail[-1] if trail else None
    return next((number for number in reversed(trail[:-1]) if number in available and number != current), None)
