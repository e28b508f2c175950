"""The end of Ray's own proxy in order: it takes no more connections, answers what was asked, and tells each client.

Ray's proxy has no such end: it takes connections until it is killed, and what was asked of it then is lost. `ProxyEnd`
is in its process, around all that answers there, and waits at a socket for the server's process, which calls
`ending_proxy`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SETTING = "ONETRUNK_PROXY_END"
TICK_S = 0.005
DRAINED = b"."


class KeptServer(uvicorn.Server):
    """A server that can be found: the one that Ray starts in this process is kept nowhere."""

    running: ClassVar[list[uvicorn.Server]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.running.append(self)


def keep_servers() -> None:
    uvicorn.Server = KeptServer  # type: ignore[misc]  # Ray makes its server by this name


class ProxyEnd:
    """Around an application: knows what is not answered yet, and lets the end come after it."""

    def __init__(self, app: ASGIApp, *, path: str) -> None:
        self._app = app
        self._open = 0
        self._ending = False
        self._listening = asyncio.ensure_future(asyncio.start_unix_server(self._end, path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if self._ending and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        self._open += 1
        try:
            await self._app(scope, receive, told)
        finally:
            self._open -= 1

    async def _end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak with `ending_proxy`: say when all is answered, and again after its second word."""
        for running in KeptServer.running:
            for server in running.servers:
                server.close()
        self._ending = True  # after the listeners: a client that is told to leave does not come back
        with suppress(ConnectionError):
            await self._answered()
            writer.write(DRAINED)
            await writer.drain()
            await reader.read()
            await self._answered()
        writer.close()

    async def _answered(self) -> None:
        while self._open:
            await asyncio.sleep(TICK_S)


@contextmanager
def ending_proxy(within_s: float, finally_s: float) -> Iterator[None]:
    """Let the proxy take no more connections, and what it has be answered; and the rest after the block.

    The block is entered after `within_s` in any case, and left `finally_s` after its end.
    """
    path = Path(os.environ[SETTING])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as proxy:
        proxy.settimeout(within_s)
        with suppress(OSError):  # the proxy has died, or is late
            proxy.connect(str(path))
            proxy.recv(1)
        yield
        with suppress(OSError):
            proxy.settimeout(finally_s)
            proxy.shutdown(socket.SHUT_WR)
            while proxy.recv(1):
                pass
