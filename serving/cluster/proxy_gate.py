"""What HAProxy does for small predictions, where Ray's own proxy is the ingress: a body that is all here, and a place.

Ray calls `middlewares` in the process of its proxy, which is slow enough to be full before the replicas are.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.parse
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.cluster.haproxy import ERRORS
from serving.cluster.haproxy_config import READS, REFUSALS, REQUEST_S, SMALL_NBYTES
from serving.cluster.plan import ServerPlan
from serving.cluster.proxy_end import SETTING as END_SETTING
from serving.cluster.proxy_end import ProxyEnd, keep_servers
from serving.cluster.refusal_log import Refusal, RefusalPipe
from serving.telemetry.request_ids import clean_id

SETTING = "ONETRUNK_PROXY_GATE"
MOST_WAITING = 1024
STATES = {408: "cR", 503: "sQ"}
"""How a refusal is told from others in the log, in HAProxy's letters."""


def environment(plan: ServerPlan, folder: Path) -> dict[str, str]:
    """Return the variables by which Ray finds what is here, and this what the plan says."""
    places = max(1, plan.held // 2) * plan.replicas.most  # the proxy's own work is some of what takes time
    reads = [f"{prefix.rstrip('/')}{path}" for prefix in plan.applications for path in READS]
    return {
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}.middlewares",
        SETTING: json.dumps(
            {"places": places, "wait_s": plan.max_wait_s, "reads": reads, "pipe": str(folder / REFUSALS)}
        ),
        END_SETTING: str(folder / "end"),
    }


def middlewares() -> list[Middleware]:
    keep_servers()
    gate = Middleware(ProxyGate, **json.loads(os.environ[SETTING]))
    return [gate, Middleware(ProxyEnd, path=os.environ[END_SETTING])]


class ProxyGate:
    """Let so many small predictions through at a time; the others wait, and are refused where that is in vain."""

    def __init__(self, app: ASGIApp, *, places: int, wait_s: float, reads: Sequence[str], pipe: str) -> None:
        self._app, self._wait_s, self._reads = app, wait_s, tuple(reads)
        self._refusals = RefusalPipe(pipe)
        self._places = FairPlaces(places)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        length = headers.get(b"content-length", b"")
        is_read = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(self._reads)
        if not (is_read and length.isdigit() and len(length) < 9 and int(length) <= SMALL_NBYTES):
            await self._app(scope, receive, send)
            return
        begin = time.time()
        body = await read_small(receive)
        if isinstance(body, int):
            await self._refuse(scope, body, begin, send)
            return
        key = headers.get(b"authorization") or str((scope.get("client") or ("",))[0]).encode()
        start = b"%d" % (1e6 * time.time())
        if not await self._places.take(key, time_for(scope["query_string"], self._wait_s)):
            await self._refuse(scope, 503, begin, send)
            return
        try:
            others = [(name, value) for name, value in scope["headers"] if name != b"x-request-start"]
            scope = {**scope, "headers": [*others, (b"x-request-start", start)]}
            await self._app(scope, first(body, receive), send)
        finally:
            self._places.give_back()

    async def _refuse(self, scope: Scope, status: int, begin: float, send: Send) -> None:
        """Answer by itself, and say so where it is counted and logged."""
        headers = dict(scope["headers"])
        request_id, received = clean_id(headers.get(b"x-request-id")), headers[b"content-length"].decode()
        ms = f"{1000 * (time.time() - begin):.0f}"
        path = scope.get("raw_path", b"").decode("ascii", "replace")
        sent = await refuse(status, request_id, send)
        self._refusals.put(
            Refusal(str(status), STATES[status], "-", ms, scope["method"], received, str(sent), request_id, path)
        )


class FairPlaces:
    """So many places; of the keys that wait, the one that had the fewest comes next. Used by one thread alone."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: defaultdict[bytes, deque[asyncio.Future[None]]] = defaultdict(deque)
        self._had: dict[bytes, float] = {}  # of the keys that wait; one that comes starts with the least of them
        self._least = 0.0
        self._count = 0

    async def take(self, key: bytes, wait_s: float) -> bool:
        """Wait for a place; return whether there was one in time."""
        if self._free:
            self._free -= 1
            return True
        if self._count >= MOST_WAITING:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._had.setdefault(key, self._least)
        self._waiting[key].append(place)
        self._count += 1
        try:
            async with asyncio.timeout(wait_s):
                await place
        except BaseException as error:
            if place in self._waiting.get(key, ()):
                self._forget(key, place)
            elif not place.cancelled():  # it came as the time was over
                self.give_back()
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give_back(self) -> None:
        while self._waiting:
            key = min(self._waiting, key=self._had.__getitem__)
            place = self._waiting[key][0]
            if not place.done():
                self._least = self._had[key]
                self._had[key] += 1
            self._forget(key, place)
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def _forget(self, key: bytes, place: asyncio.Future[None]) -> None:
        self._count -= 1
        self._waiting[key].remove(place)
        if not self._waiting[key]:
            del self._waiting[key], self._had[key]


def time_for(query: bytes, wait_s: float) -> float:
    """Return how long a request may wait: half of its own time, where it says one."""
    try:
        given = urllib.parse.parse_qs(query.decode("latin-1"), max_num_fields=1024).get("timeout_ms", [""])[0]
        return min(wait_s, max(0.0, float(given) / 2000))
    except ValueError:
        return wait_s


async def read_small(receive: Receive) -> bytes | int:
    """Return the body, or the status of a client that is too slow."""
    parts, more = [], True
    try:
        async with asyncio.timeout(REQUEST_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return 408  # nobody reads it
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        return 408
    return b"".join(parts)


def first(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


async def refuse(status: int, request_id: str, send: Send) -> int:
    """Send the answer that HAProxy would give; return the bytes of its body."""
    kind, message, header = ERRORS[status]
    name, _, value = header.lower().partition(": ")
    content = json.dumps({"error": kind, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    headers += [(name.encode(), value.encode()), (b"x-request-id", request_id.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
    return len(content)
