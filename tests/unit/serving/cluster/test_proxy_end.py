"""A real server of uvicorn that ends while clients ask: each request that was sent has an answer."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from support.servers import free_port

from benchmarks.support.steady_load import REFUSED, SteadyLoad
from serving.cluster import proxy_end
from serving.cluster.proxy_end import KeptServer, ProxyEnd, ending_proxy

ANSWER_S = 0.02


class Slow:
    """An application that answers after a while, 503 once it is closed."""

    def __init__(self) -> None:
        self.status = 200
        self.answer_s = ANSWER_S

    async def __call__(self, _scope, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(self.answer_s)
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def proxy(app: Slow, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the server on a thread, as Ray's proxy does; at the end it is stopped as hard as a kill would."""
    monkeypatch.setattr(KeptServer, "running", [])
    monkeypatch.setenv(proxy_end.SETTING, str(path))
    port, loop = free_port(), asyncio.new_event_loop()

    async def serve() -> None:
        made = ProxyEnd(app, path=str(path))
        server = KeptServer(uvicorn.Config(lambda: made, factory=True, port=port, log_config=None, lifespan="off"))
        await server._serve()

    def run() -> None:
        loop.run_until_complete(asyncio.wait([serving]))

    serving = loop.create_task(serve())
    thread = threading.Thread(target=run)
    thread.start()
    while not (KeptServer.running and path.exists()):
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(serving.cancel)
    thread.join()


def test_each_request_that_was_sent_is_answered_and_clients_are_told_to_leave(tmp_path, monkeypatch):
    app = Slow()
    with proxy(app, tmp_path / "end", monkeypatch) as url:
        with SteadyLoad(url, ["flowers"], b"image", clients=8) as load:
            time.sleep(0.5)
            before = len(load.endings)
            with ending_proxy(1.0, 1.0):
                assert {ending.how for ending in load.endings[before:]} <= {200, REFUSED}
                app.status = 503
            ended = time.monotonic()
            time.sleep(0.3)
        counts = load.counts()
        assert set(counts) == {200, REFUSED}, counts
        assert Counter(each.how for each in load.endings if each.at > ended + 0.1).keys() == {REFUSED}


def test_an_open_connection_is_answered_once_more_and_then_closed(tmp_path, monkeypatch):
    app = Slow()
    with proxy(app, tmp_path / "end", monkeypatch) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        with ending_proxy(1.0, 1.0):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert (answer.read(), answer.getheader("connection")) == (b"ok", "close")


def test_a_request_that_takes_long_does_not_hold_the_end_up(tmp_path, monkeypatch):
    app = Slow()
    app.answer_s = 1.0
    with proxy(app, tmp_path / "end", monkeypatch) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request("GET", "/")
        time.sleep(0.1)
        begin = time.monotonic()
        with ending_proxy(0.1, 0.1):
            pass
        assert time.monotonic() - begin < 0.8
        assert connection.getresponse().read() == b"ok"


def test_where_the_proxy_has_died_the_end_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv(proxy_end.SETTING, str(tmp_path / "nothing"))
    with ending_proxy(5.0, 5.0):
        pass
