"""What is checked of a prediction before its body is read, whichever protocol asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from serving.http.auth import AppState
from serving.http.errors import too_many
from store.errors import OverloadedError
from store.records.version import Version
from store.registry.tenant_store import TenantStore

WAITED = 0.5  # of the time that a request has; what is left is for decoding and the engine


async def admit(state: AppState, caller: TenantStore, refs: Sequence[str]) -> list[Version]:
    """Check that the caller may ask for the tasks, and that an image would be decoded now; return the versions."""
    for ref in refs:
        caller.check("read", ref)
    check_rate_and_room(state, caller)
    return await resolve(state, refs)


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


async def resolve(state: AppState, refs: Sequence[str]) -> list[Version]:
    """Return the versions that the refs name, from a thread where the store has to be asked."""
    tasks = state.predictor.tasks
    known = tasks.cached(refs)
    if known is not None:
        return known
    return await asyncio.get_running_loop().run_in_executor(state.workers, tasks.resolve, refs)
