"""The HTTP API of one replica, assembled: predictions, the registry, and errors as JSON. It knows nothing of Ray."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from starlette._utils import get_route_path
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from serving.http import bundle_routes, oip_schema, prediction_schema, registry_routes, telemetry_routes
from serving.http.auth import ApiKeys, AppState, authenticate_caller
from serving.http.bodies import BodyBudget
from serving.http.browser_sessions import BrowserSessions
from serving.http.encodings import check_plain
from serving.http.errors import HANDLERS, RETRY_S, ClientGoneError, TransferError, answer_of, json_response, no_route
from serving.http.headers import RequestHeaders, check_headers
from serving.http.health import Health
from serving.http.limits import HttpLimits
from serving.http.oip_routes import OipRoutes, answer_oip_error, is_oip
from serving.http.prediction_routes import PredictionRoutes
from serving.http.rates import RateLimit
from serving.http.shadows import Shadows
from serving.http.split_watch import watching_splits
from serving.http.stalls import Stalls
from serving.runtime.predictor import Predictor
from serving.telemetry.paths import HEALTH, PREDICT
from serving.telemetry.recorder import Recorder
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.snapshot import Peers, Snapshot
from store.errors import OnetrunkError, OverloadedError
from store.registry.store import Store

guarded_routes = APIRouter()
health_schema = APIRouter()
log = logging.getLogger(__name__)
EXPECTED = (OnetrunkError, TransferError, ClientGoneError)


class Api(FastAPI):
    """FastAPI for the registry; health and predictions are answered before it, in a tenth of the time."""

    def install(self, state: AppState) -> None:
        self.state.app_state = state
        self._limits = state.limits
        self._predictions = PredictionRoutes(state)
        self._health = Health(state.predictor, keys=state.api_keys is not None)
        self._oip = OipRoutes(state, self._health)
        self._recorder = state.recorder
        self._stalls = Stalls(state.limits.stalled)

    def snapshot(self) -> Snapshot:
        """Return what this replica knows of itself."""
        state: AppState = self.state.app_state
        return state.snapshot()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = get_route_path(scope)
        record = self._recorder.begin(scope, path)

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *self._recorder.headers(record)]
            else:
                record.sent += len(message.get("body", b""))
            await send(message)

        try:
            answer = await self._answer(scope, receive, path, record)
            await (answer or super().__call__)(scope, receive, send_recorded)
        except BaseException as error:  # of a client that went away, or of the framework after its answer
            record.cause = record.cause or error
            raise
        finally:
            self._recorder.end(record)

    async def _answer(self, scope: Scope, receive: Receive, path: str, record: RequestRecord) -> Response | None:
        try:
            check_headers(scope, self._limits)
            if path == PREDICT or path.startswith(PREDICT + "/"):
                answer = await self._bounded(self._predictions.answer(scope, receive, path, record), record)
                record.answered()
                return answer
            if path in HEALTH:
                return self._answer_health(scope, path, record)
            if is_oip(path):
                answer = await self._bounded(self._oip.answer(scope, receive, path, record), record)
                record.answered()
                return answer
            check_plain(RequestHeaders.read(scope).encoding)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                log.exception("%s %s failed", scope["method"], path[:200])
            return answer_oip_error(error, record) if is_oip(path) else answer_of(error, record)
        return None

    def _bounded(self, answer: Awaitable[Response], record: RequestRecord) -> Awaitable[Response]:
        return self._stalls.bound(answer, record) if record.has_place else answer

    def _answer_health(self, scope: Scope, path: str, record: RequestRecord) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return no_route(405, scope["method"], path, headers={"allow": "GET, HEAD"})
        status, content = self._health.alive() if path == "/healthz" else self._health.ready()
        if status != 200:
            record.cause = OverloadedError(str(content["reason"]))
        return json_response(content, status, {} if status == 200 else {"retry-after": RETRY_S})


def make_api(
    predictor: Predictor,
    store: Store,
    *,
    keys: bool,
    limits: HttpLimits | None = None,
    session_secret: str | None = None,
    recorder: Recorder | None = None,
    peers: Peers | None = None,
    beside: Callable[[AppState], AbstractAsyncContextManager[object]] | None = None,
) -> Api:
    """Answer from the predictor and the store; with `keys`, every route but the two of health needs an API key.

    Replicas of one application get the same `session_secret`, with which the sessions of browsers are signed.
    `recorder` notes every request, one without a log by default; `peers` asks all replicas for what they noted;
    `beside` is what serves another protocol meanwhile.
    """
    limits = limits or HttpLimits()
    recorder = recorder or Recorder("local", predictor.usage)
    state = AppState(
        predictor,
        store,
        ApiKeys(store, predictor.versions, limits) if keys else None,
        ThreadPoolExecutor(4, "resolve"),
        limits,
        BodyBudget(limits, per_key=keys),
        None if limits.rate_limit is None else RateLimit(limits.rate_limit, burst=2 * limits.rate_limit),
        BrowserSessions(session_secret),
        recorder,
        Shadows(predictor, recorder.counters.splits),
        peers,
    )

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if beside is None else beside(state), watching_splits(state):
            yield
        await run_in_threadpool(predictor.close)

    # The framework's own page of the schema would need no key: here it is a route among the others.
    api = Api(title="onetrunk", openapi_url=None, lifespan=lifespan)
    api.install(state)
    api.include_router(health_schema)
    api.include_router(oip_schema.open_routes)
    for routes in (
        guarded_routes,
        prediction_schema.routes,
        oip_schema.routes,
        registry_routes.routes,
        bundle_routes.routes,
        telemetry_routes.routes,
    ):
        api.include_router(routes, dependencies=[Depends(authenticate_caller)])
    for kind, answer in HANDLERS.items():
        api.add_exception_handler(kind, answer)
    return api


@health_schema.get("/healthz", response_model=dict[str, object])
async def health() -> None:
    """Say that the replica answers, and, on a server without keys, which backbone it holds."""


@health_schema.get("/readyz", response_model=dict[str, object])
async def ready() -> None:
    """Say with 200 that a prediction would be answered now, or with 503 why not."""


@guarded_routes.get("/openapi.json")
def schema(request: Request) -> dict[str, object]:
    """Describe these routes."""
    return dict(request.app.openapi())
