"""Servers: what they counted, and who holds versions of the visitor's tasks now."""

from __future__ import annotations

from collections import defaultdict

from starlette.concurrency import run_in_threadpool

from serving.console.listings import read_tasks
from serving.console.state import Answer, Shown, Visit
from store.records.listing import Search
from store.registry.tenant_store import TaskLease

MOST_REFS = 6
STAGES = ("total", "receive", "decode", "load", "queue", "blocks", "head")


async def show(visit: Visit) -> Answer:
    visit.store.check("read")
    statistics = None if visit.state.statistics is None else await visit.state.statistics(visit.store)
    held = await run_in_threadpool(_held, visit)
    return Shown("servers.html", {"held": held, "most_refs": MOST_REFS, "statistics": statistics, "stages": STAGES})


def _held(visit: Visit) -> dict[str, list[TaskLease]]:
    held: defaultdict[str, list[TaskLease]] = defaultdict(list)
    for lease in visit.store.holders(read_tasks(visit, Search()).rows):
        held[lease.holder].append(lease)
    return dict(held)
