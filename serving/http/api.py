"""The HTTP API of one replica: predictions, the registry, and errors as JSON. It knows nothing of Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from serving.http import bundle_routes as bundles
from serving.http import registry_routes as registry
from serving.http.auth import ApiKeyCache, AppState, Caller, app_state, authenticate_caller
from serving.http.cancellation import cancel_on_disconnect, wait_for
from serving.runtime.predictor import Prediction, Predictor
from store.errors import (
    BackboneMismatchError,
    ConflictError,
    FormatError,
    GateError,
    ImageError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    OneTrunkError,
    OverloadedError,
    ReadOnlyStoreError,
    RefusedError,
    StorageError,
    UnknownKeyError,
)
from store.registry.store import Store
from store.registry.tenant_store import TenantStore

MAX_BODY_NBYTES = 32 << 20
MAX_REFS = 256
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it but a log
STATUS = {
    UnknownKeyError: 401,
    NotAllowedError: 403,
    ReadOnlyStoreError: 403,
    NotFoundError: 404,
    InvalidNameError: 400,
    InvalidSettingError: 400,
    ImageError: 400,
    FormatError: 400,
    BackboneMismatchError: 409,
    GateError: 409,
    ConflictError: 409,
    RefusedError: 422,
    OverloadedError: 503,
    StorageError: 503,
}
"""The first class that an error belongs to gives its status; 500 where there is none."""

log = logging.getLogger(__name__)
open_routes = APIRouter()
guarded_routes = APIRouter()


def make_api(service: Predictor, store: Store, *, keys: bool) -> FastAPI:
    """Answer out of the service and the store; with `keys`, only whoever has one, but for `/healthz`."""
    served = AppState(service, store, ApiKeyCache(store) if keys else None, ThreadPoolExecutor(2, "prepare"))

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # The framework's own page of the schema would be answered to whoever has no key: it is a route among the others.
    api = FastAPI(title="onetrunk", openapi_url=None, lifespan=lifespan)
    api.state.served = served
    api.include_router(open_routes)
    for routes in (guarded_routes, registry.routes, bundles.routes):
        api.include_router(routes, dependencies=[Depends(authenticate_caller)])
    for kind, answer in HANDLERS.items():
        api.add_exception_handler(kind, answer)
    return api


@open_routes.get("/healthz")
def health(request: Request) -> dict[str, object]:
    """Say that the replica answers, and where no keys are asked for, on which backbone."""
    served = app_state(request)
    record = served.service.record
    shown = {} if served.keyring else {"backbone": record.name, "fingerprint": record.id.fingerprint}
    return {"status": "ok", **shown}


@guarded_routes.get("/openapi.json")
def schema(request: Request) -> dict[str, object]:
    """Describe these routes."""
    return dict(request.app.openapi())


@guarded_routes.post("/v1/predict/{ref:path}", response_model=None)
async def predict(
    ref: str,
    request: Request,
    caller: Caller,
    top: Annotated[int, Query(ge=1)] = 5,
    logits: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    timeout_ms: Annotated[float | None, Query(gt=0)] = None,
) -> dict[str, object] | JSONResponse:
    """Answer the image in the body (JPEG, PNG, WebP or BMP) for `task`, `task@alias` or `task:version`.

    With `timeout_ms`, counted from when the image is there, what cannot be answered in time is refused with 503.
    """
    answers = await answers_of([ref], request, caller, timeout_ms)
    return closed_by_client() if answers is None else answers[0].to_dict(top=top, logits=logits)


@guarded_routes.post("/v1/predict", response_model=None)
async def predict_many(
    request: Request,
    caller: Caller,
    ref: Annotated[list[str], Query(min_length=1, max_length=MAX_REFS)],
    top: Annotated[int, Query(ge=1)] = 5,
    logits: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    timeout_ms: Annotated[float | None, Query(gt=0)] = None,
) -> dict[str, object] | JSONResponse:
    """Answer the image in the body for each `ref`, in order; blocks that the tasks share are run once."""
    answers = await answers_of(ref, request, caller, timeout_ms)
    if answers is None:
        return closed_by_client()
    return {"answers": [answer.to_dict(top=top, logits=logits) for answer in answers]}


async def answers_of(
    refs: Sequence[str], request: Request, caller: TenantStore, timeout_ms: float | None
) -> list[Prediction] | None:
    """Answer within the time, counted from when the image is there; None where the client goes away before."""
    for ref in refs:
        caller.check("read", ref)
    image = await read_body(request)
    served = app_state(request)
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000

    def submit() -> tuple[Future[Prediction], ...]:
        return served.service.submit_many(refs, image, deadline=deadline)

    with caller.authorized("read", refs[0]):  # all have been checked; what it raises is told as to this caller
        return await cancel_on_disconnect(request, wait_for(served.workers, submit))


def closed_by_client() -> JSONResponse:
    return answer_json(CLIENT_CLOSED_REQUEST, "Client Closed Request", "the client went away before the answer")


async def read_body(request: Request) -> bytes:
    """Read the body, refusing one of more than `MAX_BODY_NBYTES` before it is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_NBYTES:
            raise ImageError(f"body is larger than {MAX_BODY_NBYTES:,} bytes: send a smaller or more compressed image")
    return bytes(body)


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return answer_json(status, type(error).__name__, str(error))


async def answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    """Answer arguments of the wrong type, the first one by name."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return answer_json(400, "InvalidSettingError", f"{first['loc'][-1]}: {first['msg']}")


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Answer what no route takes."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path[:200]}"
    return answer_json(error.status_code, HTTPStatus(error.status_code).phrase, f"{asked}: {error.detail}")


async def answer_fault(_request: Request, error: Exception) -> JSONResponse:
    """Answer our own mistake, of which the log says more."""
    return answer_json(500, type(error).__name__, "the server failed at this request: its log says more")


def answer_json(status: int, kind: str, message: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": kind, "message": message}, status, headers)


HANDLERS = {
    OneTrunkError: answer_error,
    RequestValidationError: answer_invalid,
    HTTPException: answer_http,
    Exception: answer_fault,
}
