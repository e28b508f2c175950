"""What the replicas tell of themselves: statistics as JSON, and Prometheus metrics, true whichever replica answers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from serving.http.auth import AppState, Caller, app_state
from serving.telemetry.counters import MOST_NAMES
from serving.telemetry.metrics_page import metrics_page
from serving.telemetry.snapshot import PeerSnapshots
from serving.telemetry.statistics import MOST_ROWS, server_statistics, tenant_statistics
from store.errors import NotAllowedError
from store.registry.tenant_store import TenantStore

routes = APIRouter()


@routes.get("/v1/statistics", response_model=dict[str, object])
async def statistics(
    request: Request, caller: Caller, tasks: Annotated[int, Query(ge=1, le=MOST_NAMES)] = MOST_ROWS
) -> dict[str, object]:
    """Show what all replicas did and do: requests, latencies of the last minute, block-seconds, the last errors.

    A tenant's key sees what is the tenant's own alone. `tasks` is how many tasks are in it, those answered most.
    """
    return await statistics_of(app_state(request), caller, tasks=tasks)


@routes.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request, caller: Caller) -> Response:
    """Show the metrics of all replicas as Prometheus reads them; on a server with keys, to the operator's alone."""
    caller.check("read")
    if caller.key.tenant is not None:
        raise NotAllowedError("metrics are of all tenants: send the operator's key, or read GET /v1/statistics")
    asked = await ask_peers(app_state(request))
    page = await run_in_threadpool(metrics_page, asked.snapshots, asked.missing, request.headers.get("accept", ""))
    return Response(page.body, media_type=page.content_type)


async def statistics_of(state: AppState, caller: TenantStore, *, tasks: int = MOST_ROWS) -> dict[str, object]:
    """Return the statistics as this caller may see them; the console shows them too."""
    caller.check("read")
    asked = await ask_peers(state)
    if caller.key.tenant is not None:
        return tenant_statistics(asked.snapshots, caller.key.tenant, tasks=tasks)
    return server_statistics(asked.snapshots, missing=asked.missing, tasks=tasks)


async def ask_peers(state: AppState) -> PeerSnapshots:
    """Return the snapshots of all replicas; this one's own where the others cannot be asked."""
    if state.peers is not None:
        asked = await state.peers()
        if asked.snapshots:
            return asked
    return PeerSnapshots([state.snapshot()], missing=0)
