"""The HTTP API of one replica, assembled: predictions, the registry, and errors as JSON. It knows nothing of Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from serving.http import bundle_routes, prediction_routes, registry_routes
from serving.http.auth import ApiKeyCache, AppState, app_state, authenticate_caller
from serving.http.errors import HANDLERS
from serving.runtime.predictor import Predictor
from store.registry.store import Store

open_routes = APIRouter()
guarded_routes = APIRouter()


def make_api(predictor: Predictor, store: Store, *, keys: bool) -> FastAPI:
    """Answer from the predictor and the store; with `keys`, every route but `/healthz` needs an API key."""
    state = AppState(
        predictor, store, ApiKeyCache(store, predictor.versions) if keys else None, ThreadPoolExecutor(2, "prepare")
    )

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(predictor.close)

    # The framework's own page of the schema would need no key: here it is a route among the others.
    api = FastAPI(title="onetrunk", openapi_url=None, lifespan=lifespan)
    api.state.app_state = state
    api.include_router(open_routes)
    for routes in (guarded_routes, prediction_routes.routes, registry_routes.routes, bundle_routes.routes):
        api.include_router(routes, dependencies=[Depends(authenticate_caller)])
    for kind, answer in HANDLERS.items():
        api.add_exception_handler(kind, answer)
    return api


@open_routes.get("/healthz")
def health(request: Request) -> dict[str, object]:
    """Say that the replica answers, and, on a server without keys, which backbone it holds."""
    state = app_state(request)
    record = state.predictor.record
    shown = {} if state.api_keys else {"backbone": record.name, "fingerprint": record.id.fingerprint}
    return {"status": "ok", **shown}


@guarded_routes.get("/openapi.json")
def schema(request: Request) -> dict[str, object]:
    """Describe these routes."""
    return dict(request.app.openapi())
