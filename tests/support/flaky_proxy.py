"""A proxy before a real HTTP server that loses or refuses requests, as networks and clouds do."""

from __future__ import annotations

import contextlib
import http.client
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

LOSE_REQUEST, LOSE_ANSWER = "lose the request", "lose the answer"
"""The connection ends before the server has seen the request, or once it has answered it."""


@dataclass
class Wire:
    """`faults` hit the next requests that write, in turn: one of the two above, or a status that is answered.

    A positive status is answered instead of the server; a negative one after the server has carried out the request.
    """

    url: str
    faults: deque[str | int] = field(default_factory=deque)
    writes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Wire]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    wire = Wire(f"http://127.0.0.1:{server.server_port}")
    server.upstream, server.wire = urlsplit(upstream).netloc, wire  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        wire: Wire = self.server.wire  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        writes = self.command in ("PUT", "POST", "DELETE")
        fault = wire.faults.popleft() if writes and wire.faults else None
        if writes:
            wire.writes.append(f"{self.command} {self.path}")
        if fault == LOSE_REQUEST:
            self.close_connection = True
            return
        if isinstance(fault, int) and fault > 0:
            self._answer(fault, {}, _error(fault))
            return
        status, headers, answer = self._ask(body)
        if fault == LOSE_ANSWER:
            self.close_connection = True
        elif isinstance(fault, int):
            self._answer(-fault, {}, _error(-fault))
        else:
            self._answer(status, headers, answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 (the base class's names)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=30)  # type: ignore[attr-defined]
        try:
            # With the headers as they came, Host among them: the request is signed with it.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _error(status: int) -> bytes:
    codes = {409: "ConditionalRequestConflict", 500: "InternalError", 503: "SlowDown"}
    return f"<Error><Code>{codes[status]}</Code><Message>as asked</Message></Error>".encode()
