"""One call: who makes it, its one message, and the errors of the REST routes as gRPC has them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from serving.grpc.messages import message
from serving.grpc.reading import Reading
from serving.http.api import EXPECTED
from serving.http.auth import AppState
from serving.http.bodies import HeldBody
from serving.http.errors import ClientGoneError, Problem, note_problem, timed_out
from serving.telemetry.request_record import RequestRecord
from store.errors import DeadlineError
from store.registry.tenant_store import TenantStore

log = logging.getLogger(__name__)
Code = grpc.StatusCode
CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    422: Code.FAILED_PRECONDITION,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    503: Code.UNAVAILABLE,
}
"""Of the statuses of HTTP; all others are INTERNAL."""
Context = Any  # grpc.aio.ServicerContext: the library has no annotations


@dataclass(frozen=True)
class Call:
    """A call whose caller is known, before its message is read."""

    record: RequestRecord
    caller: TenantStore
    held: HeldBody
    read: Callable[[], Awaitable[bytes]]
    deadline: float | None
    """A time of `time.monotonic`."""


Method = Callable[[Call], Awaitable[Any]]


class Calls:
    """Runs methods: the key first, then the message, bounded in bytes and in time; every call is recorded."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self.reading = Reading(state.limits)

    async def open_stream(self, path: str, context: Context) -> ExitStack:
        """Return what the stream's place is given back with; abort where its caller is unknown, or has none."""
        stack = ExitStack()

        async def enter(call: Call) -> Any:
            stack.enter_context(self.reading.place(caller_of(call.record, context)))
            return message("ServerLiveResponse")()

        await self.answer(path, enter, nothing(), context)
        return stack

    async def answer(self, path: str, method: Method, messages: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer one message with one, or abort."""
        with self._recorded(path, context) as record:
            try:
                headers = dict(scope_of(context)["headers"])
                record.caller = caller = await self._state.caller(headers, peer_of(context))
                left_s = context.time_remaining()
                deadline = None if left_s is None else time.monotonic() + left_s
                with self._state.bodies.held(caller.key.id) as held:
                    call = Call(record, caller, held, lambda: self._read(messages, record, held, context), deadline)
                    content: bytes = (await method(call)).SerializeToString()
                record.status, record.sent = 200, len(content)
                record.answered()
                return content
            except Exception as error:
                problem = self._note(error, record)
                context.set_trailing_metadata(trailing(problem, record))
                await context.abort(code_of(error, problem), problem.message)
                raise AssertionError("abort raises") from error

    def _note(self, error: Exception, record: RequestRecord) -> Problem:
        if not isinstance(error, EXPECTED):
            log.exception("%s failed", record.path)
        problem = note_problem(error, record)
        record.status = problem.status
        return problem

    @contextmanager
    def _recorded(self, path: str, context: Context) -> Iterator[RequestRecord]:
        record = self._state.recorder.begin(scope_of(context), path)
        try:
            yield record
        except asyncio.CancelledError as error:
            record.status, record.cause = 499, error
            raise
        finally:
            self._state.recorder.end(record)

    async def _read(
        self, messages: AsyncIterator[bytes], record: RequestRecord, held: HeldBody, context: Context
    ) -> bytes:
        limits = self._state.limits
        try:
            with self.reading.place(caller_of(record, context)):
                async with asyncio.timeout(limits.body_s):
                    content = await anext(messages)
        except TimeoutError:
            raise timed_out(f"the message did not come in time: {limits.body_s:g} s are given for it") from None
        except StopAsyncIteration:  # a client that sends no message at all is not told from one that goes away
            raise ClientGoneError from None
        held.take(len(content), len(content))
        record.received = len(content)
        return content


async def nothing() -> AsyncIterator[bytes]:
    """Have no message."""
    contents: tuple[bytes, ...] = ()
    for content in contents:
        yield content


def caller_of(record: RequestRecord, context: Context) -> str:
    """Return the key's id, or without keys the client's address."""
    assert record.caller is not None, "the key was looked up"
    return record.caller.key.id or peer_of(context)


def scope_of(context: Context) -> dict[str, Any]:
    """Return the metadata as a request of HTTP has its headers."""
    pairs = context.invocation_metadata() or ()
    headers = [(key.encode(), value if isinstance(value, bytes) else value.encode()) for key, value in pairs]
    return {"method": "POST", "headers": headers}


def peer_of(context: Context) -> str:
    """Return the client's address, without its port."""
    return str(context.peer()).partition(":")[2].rpartition(":")[0]


def code_of(error: Exception, problem: Problem) -> grpc.StatusCode:
    return Code.DEADLINE_EXCEEDED if isinstance(error, DeadlineError) else CODES.get(problem.status, Code.INTERNAL)


def trailing(problem: Problem, record: RequestRecord) -> tuple[tuple[str, str], ...]:
    """Return what the caller gets beside the status: the request's id, and when to try again."""
    found: list[tuple[str, str]] = [("x-request-id", record.id), ("error-kind", problem.kind)]
    if (retry := problem.headers.get("retry-after")) is not None:
        found += [("retry-after", retry), ("grpc-retry-pushback-ms", str(1000 * int(retry)))]
    return tuple(found)
