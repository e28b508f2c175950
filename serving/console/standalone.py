"""The console over a store without a server: read-only, without sign-in, for this machine alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route

from serving.console.app import MOUNTED, make_console, to_console
from serving.console.state import ConsoleState
from serving.console.storage_source import StorageSource
from serving.port import check_port
from store.errors import PortTakenError
from store.registry.store import Store

HOST = "127.0.0.1"
START_S = 10.0


def make_application(store: Store) -> Starlette:
    """Return the console alone; a page of another site that has its name point here is refused."""
    console = make_console(ConsoleState(store, storage=StorageSource(store)))
    return Starlette(
        routes=[Route("/", to_console), Mount(MOUNTED, console)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


@dataclass(frozen=True)
class RunningConsole:
    """A console that answers at this address."""

    url: str
    thread: threading.Thread

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()


@contextmanager
def running_console(store: Store, *, port: int) -> Iterator[RunningConsole]:
    """Show the store at a port of this machine until the block ends; raise `PortTakenError` where it is taken."""
    check_port(HOST, port)
    server = uvicorn.Server(
        uvicorn.Config(make_application(store), host=HOST, port=port, log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, name="console")
    thread.start()
    try:
        for _ in range(int(START_S / 0.02)):
            if server.started or not thread.is_alive():
                break
            thread.join(0.02)
        if not server.started:
            raise PortTakenError(f"cannot listen on {HOST}:{port}: choose another with `port=`")
        yield RunningConsole(f"http://{HOST}:{port}/", thread)
    finally:
        server.should_exit = True
        thread.join()
