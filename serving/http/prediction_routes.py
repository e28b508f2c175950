"""Predictions over HTTP: one image, for one task or for several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from serving.http.auth import Caller, app_state
from serving.http.bodies import read_image
from serving.http.cancellation import cancel_on_disconnect, wait_for
from serving.http.errors import closed_by_client
from serving.prediction import Prediction
from store.registry.tenant_store import TenantStore

MAX_REFS = 256

routes = APIRouter()


@routes.post("/v1/predict/{ref:path}", response_model=None)
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
    predictions = await predictions_of([ref], request, caller, timeout_ms)
    return closed_by_client() if predictions is None else predictions[0].to_dict(top=top, logits=logits)


@routes.post("/v1/predict", response_model=None)
async def predict_many(
    request: Request,
    caller: Caller,
    ref: Annotated[list[str], Query(min_length=1, max_length=MAX_REFS)],
    top: Annotated[int, Query(ge=1)] = 5,
    logits: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    timeout_ms: Annotated[float | None, Query(gt=0)] = None,
) -> dict[str, object] | JSONResponse:
    """Answer the image in the body for each `ref`, in order; blocks that the tasks share are run once."""
    predictions = await predictions_of(ref, request, caller, timeout_ms)
    if predictions is None:
        return closed_by_client()
    return {"answers": [prediction.to_dict(top=top, logits=logits) for prediction in predictions]}


async def predictions_of(
    refs: Sequence[str], request: Request, caller: TenantStore, timeout_ms: float | None
) -> list[Prediction] | None:
    """Predict within the time, counted from when the image is there; None where the client goes away before."""
    for ref in refs:
        caller.check("read", ref)
    image = await read_image(request)
    state = app_state(request)
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000

    def submit() -> tuple[Future[Prediction], ...]:
        return state.predictor.submit_many(refs, image, deadline=deadline)

    with caller.authorized("read", refs[0]):  # all refs are checked; an error is worded for this caller
        return await cancel_on_disconnect(request, wait_for(state.workers, submit))
