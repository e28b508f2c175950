"""Ends splits by their rules: each replica judges what all of them counted, and the first one changes the alias."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.concurrency import run_in_threadpool

from serving.http.auth import AppState
from serving.http.telemetry_routes import ask_peers
from serving.telemetry.split_counters import PROMOTED, ROLLED_BACK
from serving.telemetry.split_rules import Verdict, judge
from store.errors import OnetrunkError
from store.records.splits import AliasSplit
from store.registry.splits import settle_split

LOOK_S = 1.0
log = logging.getLogger(__name__)


@asynccontextmanager
async def watching_splits(state: AppState) -> AsyncIterator[None]:
    """Judge the splits that this replica answers for, as long as the context is open."""
    task = asyncio.create_task(_watch(state))
    try:
        yield
    finally:
        task.cancel()


async def _watch(state: AppState) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            await judge_splits(state)
        except OnetrunkError as error:
            log.warning("splits are not judged for now: %s", error)
        except Exception:  # of a peer's answer: the rules must hold for the next one
            log.exception("splits are not judged for now")


async def judge_splits(state: AppState) -> None:
    """Judge each split once, and end those whose rules say so."""
    counters = state.recorder.counters.splits
    state.recorder.settle()
    if not counters.judged:
        return
    snapshots = (await ask_peers(state)).snapshots
    for split in counters.judged:
        verdict = judge(split, [snapshot.outcomes.get(split, {}) for snapshot in snapshots])
        if verdict is not None:
            if await run_in_threadpool(_settle, state, split, verdict):
                counters.ended[PROMOTED if verdict.promote else ROLLED_BACK] += 1
            counters.forget(split)


def _settle(state: AppState, split: AliasSplit, verdict: Verdict) -> bool:
    """End the split; say whether this replica did, and not another one before it."""
    store = state.store.with_actor(f"server {platform.node()}")
    is_first = settle_split(store, split, verdict.evidence, promote=verdict.promote)
    if is_first:
        what = "promoted" if verdict.promote else "rolled back"
        log.warning("%s was %s by its rules: %s", split.ref, what, verdict.evidence)
    return is_first
