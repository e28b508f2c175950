"""The slow twin of the prediction routes: FastAPI with its own parsing and routing, and everything on one thread."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request

from serving.http.auth import Caller, authenticate_caller
from serving.http.errors import HANDLERS
from serving.runtime.predictor import Predictor
from serving.telemetry.request_record import KEY, RequestRecord
from store.registry.tenant_store import TenantStore

MAX_REFS = 256


class RecordedApi(FastAPI):
    """An application whose requests have records, as handlers of errors want them."""

    async def __call__(self, scope, receive, send):
        scope[KEY] = RequestRecord(scope, scope["path"])
        await super().__call__(scope, receive, send)


def make_slow_api(predictor: Predictor, state: object) -> FastAPI:
    """Answer predictions of one image as the routes before FastAPI do."""
    api = RecordedApi(openapi_url=None, dependencies=[Depends(authenticate_caller)])
    api.state.app_state = state
    for kind, answer in HANDLERS.items():
        api.add_exception_handler(kind, answer)

    async def answers(refs: list[str], request: Request, caller: TenantStore, timeout_ms: float | None) -> list:
        for ref in refs:
            caller.check("read", ref)
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        with caller.authorized("read", refs[0]):
            futures = predictor.submit_many(refs, await request.body(), deadline=deadline)
            return [future.result() for future in futures]

    @api.post("/v1/predict/{ref:path}")
    async def predict(
        ref: str,
        request: Request,
        caller: Caller,
        top: Annotated[int, Query(ge=1)] = 5,
        logits: bool = False,
        timeout_ms: Annotated[float | None, Query(gt=0)] = None,
    ) -> dict[str, object]:
        return (await answers([ref], request, caller, timeout_ms))[0].to_dict(top=top, logits=logits)

    @api.post("/v1/predict")
    async def predict_many(
        request: Request,
        caller: Caller,
        ref: Annotated[list[str], Query(min_length=1, max_length=MAX_REFS)],
        top: Annotated[int, Query(ge=1)] = 5,
        logits: bool = False,
        timeout_ms: Annotated[float | None, Query(gt=0)] = None,
    ) -> dict[str, object]:
        made = await answers(ref, request, caller, timeout_ms)
        return {"answers": [prediction.to_dict(top=top, logits=logits) for prediction in made]}

    return api
