"""Predictions over HTTP, straight from ASGI: one image for one task or for several, or several images for one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from fastapi.responses import Response
from starlette.types import Receive, Scope

from serving.http.admission import admit, check_wait, share_of
from serving.http.auth import AppState
from serving.http.bodies import read_body
from serving.http.cancellation import wait_for
from serving.http.degrading import answer_in_time
from serving.http.encodings import expand
from serving.http.errors import json_response, no_route
from serving.http.headers import RequestHeaders
from serving.http.image_bodies import split_images
from serving.http.prediction_query import ManyQuery, PredictionQuery, parse_query
from serving.http.several_images import predict_each
from serving.prediction import Prediction
from serving.runtime.request_times import Origin
from serving.telemetry.paths import PREDICT
from serving.telemetry.request_record import RequestRecord
from store.errors import FormatError
from store.records.version import Version
from store.registry.tenant_store import TenantStore


class PredictionRoutes:
    """Answer POST to `/v1/predict` and below it; prediction_schema.py says how."""

    def __init__(self, state: AppState) -> None:
        self._state = state

    async def answer(self, scope: Scope, receive: Receive, path: str, record: RequestRecord) -> Response:
        """Answer, or raise an error; `record.caller` is who may see it."""
        if scope["method"] != "POST":
            return no_route(405, scope["method"], path, headers={"allow": "POST"})
        headers = RequestHeaders.read(scope)
        record.caller = caller = await self._state.caller(headers.all, headers.client)
        query = parse_query(scope["query_string"], many=path == PREDICT)
        refs = query.ref if isinstance(query, ManyQuery) else [path[len(PREDICT) + 1 :]]
        predictions, several = await self._predict(refs, query, caller, headers, receive, record)
        answers = [prediction.to_dict(top=query.top, logits=query.logits) for prediction in predictions]
        return json_response({"answers": answers} if several or path == PREDICT else answers[0])

    async def _predict(
        self,
        refs: list[str],
        query: PredictionQuery | ManyQuery,
        caller: TenantStore,
        headers: RequestHeaders,
        receive: Receive,
        record: RequestRecord,
    ) -> tuple[list[Prediction], bool]:
        """Check all that can be checked before the body is read, then read, queue and wait.

        Returns also whether the body held several images.
        """
        key, state, limits = caller.key, self._state, self._state.limits
        share = share_of(caller)
        check_wait(headers.waited_s, query.timeout_ms)
        await admit(state, caller, record, refs)
        with state.bodies.held(key.id) as held:
            body = await read_body(receive, headers.length, held, limits)
            record.received = len(body)
            body = await expand(body, headers.encoding, held, limits)
            images = split_images(body, headers.content_type, limits)
            if images is not None and len(refs) > 1:
                raise FormatError(f"several images for {len(refs)} tasks: send one image, or name one task")
            if state.rate is not None:
                state.rate.take(key.id, len(images or (body,)))
            deadline = None
            if query.timeout_ms is not None:
                deadline = time.monotonic() + query.timeout_ms / 1000 - headers.waited_s

            def submit(versions: Sequence[Version], image: bytes) -> tuple[Future[Prediction], ...]:
                origin = Origin(deadline, share, record.begin_image())
                return state.predictor.queue.submit_encoded(versions, image, origin)

            async def ask(versions: Sequence[Version]) -> list[Prediction]:
                if images is None:
                    return await wait_for(submit(versions, body), receive)
                return await predict_each(images, partial(submit, versions), receive)

            answers = await answer_in_time(record, ask)
            state.shadows.ask(record, images or (body,), answers, share)
            return answers, images is not None
