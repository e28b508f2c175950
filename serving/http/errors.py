"""Errors as JSON: which status each has, and one line that says what is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serving.telemetry.request_record import RequestRecord, record_of
from store.errors import (
    BackboneMismatchError,
    ClosedStoreError,
    ConflictError,
    FormatError,
    GateError,
    ImageError,
    IntegrityError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    OnetrunkError,
    OverloadedError,
    ReadOnlyStoreError,
    RefusedError,
    StorageError,
    StoreBusyError,
    UnknownKeyError,
)

log = logging.getLogger(__name__)

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
    ClosedStoreError: 503,
}
"""The first class that an error belongs to gives its status; 500 for all others."""
RETRY_S = "1"
IN_THE_LOG: Mapping[type[OnetrunkError], str] = {
    StoreBusyError: "another writer holds the store's catalogue, and nothing was changed: try again",
    StorageError: "the store does not answer: try again; the server's log says more",
    ReadOnlyStoreError: "this server may not write to its store: the server's log says more",
    IntegrityError: "what the store holds of it is damaged: the server's log says more",
    ClosedStoreError: "the server is stopping: try again once it is back",
}
"""Errors whose own messages name files, machines and processes: what a caller gets instead."""


class ClientGoneError(Exception):
    """The client went away while its body was read."""


class TransferError(Exception):
    """A request that is refused for what it sends and how, whatever it asks for."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def timed_out(message: str) -> TransferError:
    return TransferError(408, "Request Timeout", message, connection="close")


def too_large(message: str) -> TransferError:
    return TransferError(413, "Content Too Large", message, connection="close")


def too_many(message: str, *, retry_s: float = 1.0) -> TransferError:
    return TransferError(429, "Too Many Requests", message, retry_after=str(max(1, round(retry_s))))


def no_memory(message: str) -> TransferError:
    return TransferError(503, "Service Unavailable", message, retry_after=RETRY_S, connection="close")


def wrong_encoding(encoding: str, remedy: str) -> TransferError:
    message = f"content-encoding {encoding[:40]!r} is not understood here: {remedy}"
    return TransferError(415, "Unsupported Media Type", message, connection="close")


class Problem(NamedTuple):
    """An error as its caller reads it."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str] = {}


def problem_of(error: Exception) -> Problem:
    """Return what the caller reads of any error; one that is a mistake of the server is described by the log alone."""
    if isinstance(error, ClientGoneError):
        return Problem(CLIENT_CLOSED_REQUEST, "Client Closed Request", "the client went away before the answer")
    if isinstance(error, TransferError):
        return Problem(error.status, error.kind, str(error), error.headers)
    if isinstance(error, OnetrunkError):
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        public = next((message for kind, message in IN_THE_LOG.items() if isinstance(error, kind)), None)
        if public is not None:
            log.warning("%s: %s", type(error).__name__, error)
        headers = {"retry-after": RETRY_S} if status == 503 else {}
        return Problem(status, type(error).__name__, public or str(error), headers)
    return Problem(500, type(error).__name__, "the server failed at this request: its log says more")


def answer_of(error: Exception, record: RequestRecord) -> Response:
    """Answer an error, and note it in the request's record."""
    problem = note_problem(error, record)
    return answer_json(problem.status, problem.kind, problem.message, problem.headers)


def note_problem(error: Exception, record: RequestRecord) -> Problem:
    """Return what the caller reads of an error, noted in the request's record."""
    worded = record.caller.worded(error) if record.caller is not None and isinstance(error, OnetrunkError) else error
    problem = problem_of(worded)
    record.cause, record.problem = error, (problem.kind, problem.message)
    return problem


async def answer_error(request: Request, error: Exception) -> Response:
    return answer_of(error, record_of(request.scope))


async def answer_invalid(request: Request, error: Exception) -> Response:
    """Answer arguments of the wrong type, the first one by name."""
    assert isinstance(error, RequestValidationError)
    return answer_of(invalid(error.errors()[0]), record_of(request.scope))


def invalid(problem: Mapping[str, Any]) -> InvalidSettingError:
    """Return the error for what pydantic says of an argument."""
    return InvalidSettingError(f"{problem['loc'][-1]}: {problem['msg']}")


async def answer_http(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    record = record_of(request.scope)
    record.cause, record.problem = error, (HTTPStatus(error.status_code).phrase, str(error.detail))
    return no_route(error.status_code, request.method, request.url.path, str(error.detail), error.headers)


def no_route(
    status: int, method: str, path: str, detail: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    phrase = HTTPStatus(status).phrase
    shown = path[:200] if path.isprintable() else repr(path[:200])
    return answer_json(status, phrase, f"{method} {shown}: {detail or phrase}", headers)


def answer_json(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    challenge = {"www-authenticate": "Bearer"} if status == 401 else {}
    return json_response({"error": kind, "message": message}, status, {**challenge, **(headers or {})})


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer as FastAPI's own response does, to the byte."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), status, headers, media_type="application/json")


HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    OnetrunkError: answer_error,
    TransferError: answer_error,
    ClientGoneError: answer_error,
    RequestValidationError: answer_invalid,
    HTTPException: answer_http,
    Exception: answer_error,
}
