"""What is checked of a prediction before its body is read, whichever protocol asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.http.auth import AppState
from serving.http.errors import too_many
from serving.telemetry.request_record import RequestRecord
from store.errors import OverloadedError
from store.records.version import Version
from store.registry.tenant_store import TenantStore

WAITED = 0.5  # of the time that a request has; what is left is for decoding and the engine


async def admit(state: AppState, caller: TenantStore, record: RequestRecord, refs: Sequence[str]) -> None:
    """Check that the caller may ask for the tasks, and that an image would be decoded now; choose the versions."""
    for ref in refs:
        caller.check("read", ref)
    check_rate_and_room(state, caller)
    await choose(state, record, refs)


def check_rate_and_room(state: AppState, caller: TenantStore) -> None:
    if state.rate is not None and (wait_s := state.rate.wait_s(caller.key.id)) > 0:
        raise too_many(f"{state.limits.rate_limit:g} images a second are the most: send fewer", retry_s=wait_s)
    state.predictor.check_room(share_of(caller))


def check_wait(waited_s: float, timeout_ms: float | None) -> None:
    """Raise where a request has used so much of its time at the ingress that the rest will hardly do."""
    if timeout_ms is not None and waited_s > WAITED * timeout_ms / 1000:
        raise OverloadedError(
            f"the request waited {1000 * waited_s:.0f} of its {timeout_ms:g} ms for a replica: try again later, "
            "or add replicas"
        )


def share_of(caller: TenantStore) -> str | None:
    """Return whose share of decoding and of the engine the caller's images take."""
    return caller.key.tenant or caller.key.id or None


async def choose(state: AppState, record: RequestRecord, refs: Sequence[str]) -> None:
    """Choose the versions that answer, from a thread where the store has to be asked; under pressure, shallower ones.

    They are noted in the request's record.
    """
    tasks, key = state.predictor.tasks, record.key
    known = tasks.cached(refs, key)
    if known is None:
        known = await asyncio.get_running_loop().run_in_executor(state.workers, tasks.choose, refs, key)
    record.choices = known
    if any(choice.shallower is not None for choice in known) and state.predictor.pressed:
        record.degrade()


async def resolve(state: AppState, ref: str) -> Version:
    """Return the version that the ref names, of a split alias the stable one."""
    tasks = state.predictor.tasks
    (version,) = await asyncio.get_running_loop().run_in_executor(state.workers, tasks.resolve, [ref])
    return version
