"""The console as an ASGI application: each request becomes a visit, its page an answer with strict headers."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serving.console import (
    assets,
    backbone_page,
    changes_page,
    compare_page,
    server_page,
    sign_in_page,
    storage_page,
    task_page,
    tasks_page,
    try_page,
)
from serving.console.rendering import plain, render
from serving.console.requests import check_origin, check_token, read_form, read_query
from serving.console.state import Answer, ConsoleState, File, Shown, Visit
from serving.http.browser_sessions import COOKIE, LIFE_S, BrowserSession, key_of
from serving.http.errors import TransferError, problem_of
from serving.telemetry.request_record import KEY, RequestRecord
from store.errors import OnetrunkError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, NOBODY
from store.registry.tenant_store import TenantStore

log = logging.getLogger(__name__)

MOUNTED = "/console"
Page = Callable[[Visit], Answer] | Callable[[Visit], Awaitable[Answer]]
Work = Callable[[Request], Awaitable[Response]]
POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:", "connect-src 'self'",
    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
PAGES: Mapping[str, Page] = {
    "/": backbone_page.show,
    "/tasks": tasks_page.show,
    "/tasks/{task:path}": task_page.show,
    "/compare": compare_page.show,
    "/change/{action}": changes_page.preview,
    "/storage": storage_page.show,
    "/storage/data": storage_page.show_data,
    "/servers": server_page.show,
    "/try": try_page.show,
    "/sharing": try_page.show_sharing,
}


def make_console(state: ConsoleState) -> ASGIApp:
    """Return the console, which is mounted at a path below which all of its pages are."""
    console = Console(state)

    def route(path: str, work: Work, *methods: str) -> Route:
        return Route(path, partial(console.answer, work=work), methods=methods or ("GET",))

    return Starlette(
        routes=[
            *(route(path, partial(console.show, page=page)) for path, page in PAGES.items()),
            route("/change/{action}", partial(console.take_form, page=changes_page.apply), "POST"),
            route("/sign-out", partial(console.take_form, page=sign_in_page.sign_out), "POST"),
            route("/sign-in", console.show_sign_in),
            route("/sign-in", console.sign_in, "POST"),
            Route("/static/{name}", assets.answer, methods=["GET"]),
        ],
        exception_handlers={HTTPException: console.answer_unknown},
    )


async def to_console(request: Request) -> RedirectResponse:
    """Send the server's first page to the console."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{MOUNTED}/", 303)


class Console:
    """Answers requests: who it is, what they ask for, and every error as a page with the request's id."""

    def __init__(self, state: ConsoleState) -> None:
        self._state = state

    async def answer(self, request: Request, work: Work) -> Response:
        try:
            return await work(request)
        except Exception as error:
            return self._failed(request, error)

    async def show(self, request: Request, page: Page) -> Response:
        visit = await run_in_threadpool(self._identify, request, read_query(request))
        return self._to_sign_in(request) if visit is None else await _answered(request, visit, page)

    async def take_form(self, request: Request, page: Page) -> Response:
        """Let the page make a change, if the form is from a page of the visitor's own session."""
        check_origin(request.headers)
        visit = await run_in_threadpool(self._identify, request, await read_form(request))
        if visit is None:
            return self._to_sign_in(request)
        check_token(visit.session, visit.fields)
        return await _answered(request, visit, page)

    async def show_sign_in(self, request: Request) -> Response:
        return await _answered(request, self._stranger(request, read_query(request)), sign_in_page.show)

    async def sign_in(self, request: Request) -> Response:
        check_origin(request.headers)
        visit = self._stranger(request, await read_form(request))
        client = request.client.host if request.client else ""
        return await _answered(request, visit, partial(sign_in_page.sign_in, client=client))

    async def answer_unknown(self, request: Request, error: Exception) -> Response:
        """Answer a path or a method that no route has; it says the same to everyone."""
        assert isinstance(error, HTTPException)
        page = Shown(
            "error.html", {"status": error.status_code, "message": "Nothing is at this address."}, error.status_code
        )
        return _respond(request, self._stranger(request), page)

    def _identify(self, request: Request, fields: Mapping[str, str]) -> Visit | None:
        """Return the visit of who is signed in, or of anyone where there are no keys; None where one must sign in."""
        sessions = self._state.sessions
        if sessions is None:
            return self._visit(request, ANONYMOUS, None, fields)
        session = sessions.of(dict(request.scope["headers"]))
        key = None if session is None else key_of(session, self._state.store)
        return None if key is None else self._visit(request, key, session, fields)

    def _stranger(self, request: Request, fields: Mapping[str, str] | None = None) -> Visit:
        return self._visit(request, NOBODY, None, fields or {})

    def _visit(self, request: Request, key: ApiKey, session: BrowserSession | None, fields: Mapping[str, str]) -> Visit:
        store, record = TenantStore(self._state.store, key), _record(request)
        if key is not NOBODY:
            record.caller = store
        base = request.scope.get("root_path", "").rstrip("/")
        path = request.url.path.removeprefix(base)
        return Visit(self._state, store, session, base, path, {**fields, **request.path_params}, record.id)

    def _to_sign_in(self, request: Request) -> Response:
        visit = self._stranger(request)
        had_one = COOKIE in request.cookies
        path = visit.path if request.method == "GET" else "/"
        return _respond(request, visit, sign_in_page.ask(path, ended=had_one))

    def _failed(self, request: Request, error: Exception) -> Response:
        visit, record = self._stranger(request), _record(request)
        if not isinstance(error, OnetrunkError | TransferError):
            log.exception("request %s failed: %s %s", record.id, record.method, record.path[:200])
        problem = problem_of(error)
        record.cause, record.problem = error, (problem.kind, problem.message)
        page = Shown("error.html", {"status": problem.status, "message": plain(problem.message)}, problem.status)
        response = _respond(request, visit, page)
        response.headers.update(problem.headers)
        return response


async def _answered(request: Request, visit: Visit, page: Page) -> Response:
    made = page(visit) if inspect.iscoroutinefunction(page) else await run_in_threadpool(page, visit)
    answer: Answer = await made if inspect.isawaitable(made) else made
    return await run_in_threadpool(_respond, request, visit, answer)


def _respond(request: Request, visit: Visit, answer: Answer) -> Response:
    headers = dict(HEADERS)
    if KEY not in request.scope:  # else the API adds it
        headers["x-request-id"] = visit.request_id
    if isinstance(answer, Shown):
        return Response(render(visit, answer), answer.status, headers, media_type="text/html")
    if isinstance(answer, File):
        headers["content-disposition"] = f'attachment; filename="{answer.name}"'
        return Response(answer.content, 200, headers, media_type=answer.media_type)
    response: Response = RedirectResponse(f"{visit.base}{answer.path}", 303, headers)
    if answer.cookie is not None:
        _set_cookie(request, response, visit, answer.cookie)
    return response


def _set_cookie(request: Request, response: Response, visit: Visit, value: str) -> None:
    """Set the session's cookie, which no script reads and no other site sends; "" takes it away."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=LIFE_S if value else 0,
        path=visit.base.removesuffix(MOUNTED) or "/",
        httponly=True,
        samesite="strict",
        secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
    )


def _record(request: Request) -> RequestRecord:
    """Return what the API notes of the request; where there is no API, a record of the request alone."""
    record = request.scope.get(KEY) or request.scope.setdefault("state", {}).get(KEY)
    if not isinstance(record, RequestRecord):
        record = request.scope["state"][KEY] = RequestRecord(request.scope, request.url.path)
    return record
