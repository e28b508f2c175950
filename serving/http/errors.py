"""Errors as JSON: which status each has, and one line that says what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

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
RETRY_S = 1  # the answer to 503 asks to wait so long

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


IN_THE_LOG: Mapping[type[OnetrunkError], str] = {
    StoreBusyError: "another writer holds the store's catalogue, and nothing was changed: try again",
    StorageError: "the store does not answer: try again; the server's log says more",
    ReadOnlyStoreError: "this server may not write to its store: the server's log says more",
    IntegrityError: "what the store holds of it is damaged: the server's log says more",
    ClosedStoreError: "the server is stopping: try again once it is back",
}
"""Errors whose own messages name files, machines and processes: what a caller gets instead."""


async def answer_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the library with its status and message; what only the operator may read is logged."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    public = next((message for kind, message in IN_THE_LOG.items() if isinstance(error, kind)), None)
    if public is not None:
        log.warning("%s: %s", type(error).__name__, error)
    return answer_json(status, type(error).__name__, public or str(error))


async def answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    """Answer arguments of the wrong type, the first one by name."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return answer_json(400, "InvalidSettingError", f"{first['loc'][-1]}: {first['msg']}")


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    target = f"{request.method} {request.url.path[:200]}"
    return answer_json(error.status_code, HTTPStatus(error.status_code).phrase, f"{target}: {error.detail}")


async def answer_fault(_request: Request, error: Exception) -> JSONResponse:
    """Answer a mistake of the server, which the log describes."""
    return answer_json(500, type(error).__name__, "the server failed at this request: its log says more")


HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(RETRY_S)},
}


def closed_by_client() -> JSONResponse:
    return answer_json(CLIENT_CLOSED_REQUEST, "Client Closed Request", "the client went away before the answer")


def answer_json(status: int, kind: str, message: str) -> JSONResponse:
    headers = HEADERS.get(status)
    return JSONResponse({"error": kind, "message": message}, status, headers)


HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
    OnetrunkError: answer_error,
    RequestValidationError: answer_invalid,
    HTTPException: answer_http,
    Exception: answer_fault,
}
