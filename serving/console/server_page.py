"""Servers: who holds versions of the visitor's tasks now, and what the server counted."""

from __future__ import annotations

from collections import defaultdict

from serving.console.listings import read_tasks
from serving.console.state import Answer, Shown, Visit
from store.records.listing import Search
from store.registry.tenant_store import TaskLease

MOST_REFS = 6


def show(visit: Visit) -> Answer:
    held: defaultdict[str, list[TaskLease]] = defaultdict(list)
    for lease in visit.store.holders(read_tasks(visit, Search()).rows):
        held[lease.holder].append(lease)
    statistics = None if visit.state.statistics is None else visit.state.statistics(visit.store)
    return Shown("servers.html", {"held": dict(held), "most_refs": MOST_REFS, "statistics": statistics})
