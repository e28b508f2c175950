"""Requests to an ASGI application in this process."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Application = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        return json.loads(self.content)


async def stay() -> None:
    """Never leave."""
    await asyncio.Event().wait()


async def talk(
    application: Application,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    client: str = "127.0.0.1",
    leave: Callable[[], Awaitable[None]] = stay,
    parts: Iterator[Message] | None = None,
) -> Reply:
    """Send a request, whose body may come in `parts`, and return the answer; the client goes once `leave` returns."""
    target, _, query = url.partition("?")
    sent: list[Message] = []
    pieces = parts if parts is not None else iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        for piece in pieces:
            return piece
        await leave()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"content-length": str(len(body)), **(headers or {})} if parts is None else headers or {}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": urllib.parse.unquote(target), "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "query_string": query.encode(), "scheme": "http", "server": ("test", 80), "client": (client, 1),
    }  # fmt: skip
    await application(scope, receive, send)
    start, *rest = sent
    received = {name.decode(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], b"".join(part.get("body", b"") for part in rest), received)


def ask(application: Application, method: str, url: str, **given: Any) -> Reply:
    return asyncio.run(talk(application, method, url, **given))
