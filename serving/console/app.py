"""The console as an ASGI application: each request becomes a visit, its page an answer with strict headers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serving.console import assets, backbone_page, changes_page, compare_page, server_page, sign_in_page
from serving.console import storage_page, task_page, tasks_page, try_page
from serving.console.rendering import render
from serving.console.requests import check_origin, check_token, read_form, read_query
from serving.console.state import Answer, ConsoleState, File, Moved, Shown, Visit
from serving.http.browser_sessions import COOKIE, LIFE_S, BrowserSession
from serving.http.errors import IN_THE_LOG, STATUS, TransferError
from store.errors import OnetrunkError, UnknownKeyError
from store.records.events import ApiKey
from store.registry.api_keys import ANONYMOUS, NOBODY
from store.registry.tenant_store import TenantStore

log = logging.getLogger(__name__)

Page = Callable[[Visit], Answer]
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
    """Return the console; it is mounted at `/console`, below which all of its pages are."""
    console = Console(state)
    routes = [Route(path, partial(console.answer, page=page), methods=["GET"]) for path, page in PAGES.items()]
    routes += [
        Route("/change/{action}", partial(console.answer_form, page=changes_page.apply), methods=["POST"]),
        Route("/sign-in", console.sign_in_form, methods=["GET"]),
        Route("/sign-in", console.sign_in, methods=["POST"]),
        Route("/sign-out", partial(console.answer_form, page=sign_in_page.sign_out), methods=["POST"]),
        Route("/static/{name}", assets.answer, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: console.answer_unknown})


class Console:
    """Answers requests: who it is, what they ask for, and every error as a page with the request's id."""

    def __init__(self, state: ConsoleState) -> None:
        self._state = state

    async def answer(self, request: Request, page: Page) -> Response:
        visit = self._visit(request, NOBODY, None, {})
        try:
            visit = await run_in_threadpool(self._identify, request, read_query(request))
            if visit is None:
                return self._to_sign_in(request)
            return await run_in_threadpool(_shown, request, visit, page)
        except Exception as error:
            return self._failed(request, visit, error)

    async def answer_form(self, request: Request, page: Page) -> Response:
        visit = self._visit(request, NOBODY, None, {})
        try:
            check_origin(request.headers)
            visit = await run_in_threadpool(self._identify, request, await read_form(request))
            if visit is None:
                return self._to_sign_in(request)
            check_token(visit.session, visit.fields)
            return await run_in_threadpool(_shown, request, visit, page)
        except Exception as error:
            return self._failed(request, visit, error)

    async def sign_in_form(self, request: Request) -> Response:
        visit = self._visit(request, NOBODY, None, {})
        try:
            visit = self._visit(request, NOBODY, None, read_query(request))
            return _shown(request, visit, sign_in_page.show)
        except Exception as error:
            return self._failed(request, visit, error)

    async def sign_in(self, request: Request) -> Response:
        visit = self._visit(request, NOBODY, None, {})
        try:
            check_origin(request.headers)
            visit = self._visit(request, NOBODY, None, await read_form(request))
            client = request.client.host if request.client else ""
            answer = await sign_in_page.sign_in(visit, client)
            return _respond(request, visit, answer)
        except Exception as error:
            return self._failed(request, visit, error)

    async def answer_unknown(self, request: Request, error: Exception) -> Response:
        """Answer a path or a method that no route has; it says the same to everyone."""
        assert isinstance(error, HTTPException)
        visit = self._visit(request, NOBODY, None, {})
        return _respond(request, visit, _error_page(error.status_code, "there is no such page", visit))

    def _identify(self, request: Request, fields: Mapping[str, str]) -> Visit | None:
        """Return the visit of a signed-in visitor, or of anyone where there are no keys; None where one must sign in."""
        sessions = self._state.sessions
        if sessions is None:
            return self._visit(request, ANONYMOUS, None, fields)
        session = sessions.of(dict(request.scope["headers"]))
        key = None if session is None else self._state.store.api_key(session.key_id)
        if key is None or key.revoked_at is not None:
            return None
        return self._visit(request, key, session, fields)

    def _visit(
        self, request: Request, key: ApiKey, session: BrowserSession | None, fields: Mapping[str, str]
    ) -> Visit:
        store = TenantStore(self._state.store, key)
        base = request.scope.get("root_path", "").rstrip("/")
        path = request.url.path.removeprefix(base)
        values = {**fields, **request.path_params}
        return Visit(self._state, store, session, base, path, values, _request_id(request))

    def _to_sign_in(self, request: Request) -> Response:
        visit = self._visit(request, NOBODY, None, {})
        path = visit.path if request.method == "GET" else "/"
        where = "/sign-in" if path == "/" else f"/sign-in?next={sign_in_page.encode_next(path)}"
        had_one = COOKIE in request.cookies
        if had_one:
            where += "&ended=1" if "?" in where else "?ended=1"
        return _respond(request, visit, Moved(where, cookie="" if had_one else None))

    def _failed(self, request: Request, visit: Visit | None, error: Exception) -> Response:
        visit = visit or self._visit(request, NOBODY, None, {})
        if isinstance(error, TransferError):
            return _respond(request, visit, _error_page(error.status, str(error), visit))
        if not isinstance(error, OnetrunkError):
            log.exception("request %s failed: %s %s", visit.request_id, request.method, visit.path[:200])
            message = "the server failed at this request: its log says more under this id"
            return _respond(request, visit, _error_page(500, message, visit))
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        public = next((message for kind, message in IN_THE_LOG.items() if isinstance(error, kind)), None)
        if public is not None or status >= 500:
            log.warning("request %s: %s: %s", visit.request_id, type(error).__name__, error)
        if isinstance(error, UnknownKeyError):
            status = 403
        return _respond(request, visit, _error_page(status, public or str(error), visit))


def _shown(request: Request, visit: Visit, page: Page) -> Response:
    return _respond(request, visit, page(visit))


def _respond(request: Request, visit: Visit, answer: Answer) -> Response:
    headers = {**HEADERS, "x-request-id": visit.request_id}
    if isinstance(answer, Shown):
        return Response(render(visit, answer), answer.status, headers, media_type="text/html")
    if isinstance(answer, File):
        headers["content-disposition"] = f'attachment; filename="{answer.name}"'
        return Response(answer.content, 200, headers, media_type=answer.media_type)
    response: Response = RedirectResponse(f"{visit.base}{answer.path}", 303, headers)
    if answer.cookie is not None:
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        root = visit.base.removesuffix("/console") or "/"
        response.set_cookie(
            COOKIE, answer.cookie, LIFE_S if answer.cookie else 0, path=root, httponly=True, samesite="strict",
            secure=secure,
        )  # fmt: skip
    return response


def _error_page(status: int, message: str, visit: Visit) -> Shown:
    return Shown("error.html", {"status": status, "message": message}, status)


def _request_id(request: Request) -> str:
    """Return the id that the server gave the request, or a new one."""
    given = request.scope.setdefault("state", {}).get("request_id")
    return given if isinstance(given, str) else secrets.token_hex(8)
