from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from serving.cluster import proxy_gate
from serving.cluster.plan import PYTHON, Replicas, ServerPlan
from serving.cluster.proxy_end import ProxyEnd
from serving.cluster.proxy_gate import SETTING, FairPlaces, ProxyGate, environment, middlewares, time_for
from serving.cluster.refusal_log import Refusal

PLAN = ServerPlan({"/": {}, "/full": {}}, "127.0.0.1", 1, PYTHON, Replicas(1, 2), "onetrunk", False, None)


@pytest.fixture
def pipe(tmp_path) -> str:
    os.mkfifo(tmp_path / "refusals")
    return str(tmp_path / "refusals")


class Asked:
    """An application that answers when it is told to, and what a client of the gate in front of it got."""

    def __init__(self, pipe: str, *, places: int = 1, wait_s: float = 5.0) -> None:
        self.gate = ProxyGate(self._answer, places=places, wait_s=wait_s, reads=["/v1/predict"], pipe=pipe)
        self._pipe = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.bodies: list[bytes] = []
        self.starts: list[bytes] = []
        self.may_answer = asyncio.Event()

    async def _answer(self, scope, receive, send) -> None:
        self.starts += [value for name, value in scope["headers"] if name == b"x-request-start"]
        self.bodies.append((await receive())["body"])
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(
        self, *pieces: bytes, path: str = "/v1/predict/flowers", query: bytes = b"", key: bytes = b"k"
    ) -> int:
        headers = [
            (b"authorization", key),
            (b"content-length", b"%d" % len(b"".join(pieces))),
            (b"x-request-start", b"1"),
        ]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": query, "headers": headers,
                 "raw_path": path.encode()}  # fmt: skip
        left, sent = list(pieces), []

        async def receive() -> dict[str, object]:
            if not left:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        await self.gate(scope, receive, send)
        if sent[0]["status"] != 200:
            assert json.loads(sent[1]["body"])["error"]
            self.answered_id = dict(sent[0]["headers"])[b"x-request-id"].decode()
        return sent[0]["status"]

    def noted(self) -> list[Refusal | None]:
        """What the gate wrote for the log since the last time."""
        return [Refusal.parse(line) for line in os.read(self._pipe, 1 << 16).decode().splitlines()]


def test_a_small_prediction_reaches_the_proxy_whole_and_says_since_when_it_is_here(pipe):
    async def check() -> None:
        asked = Asked(pipe)
        asked.may_answer.set()
        assert await asked.ask(b"a", b"bc") == 200
        assert asked.bodies == [b"abc"]
        assert len(asked.starts) == 1
        assert int(asked.starts[0]) > 1

    asyncio.run(check())


def test_what_finds_no_place_in_time_is_refused_and_half_of_its_own_time_is_the_most(pipe):
    async def check() -> None:
        asked = Asked(pipe, wait_s=0.05)
        first = asyncio.create_task(asked.ask(b"a"))
        await asyncio.sleep(0)
        assert await asked.ask(b"b") == 503
        (refused,) = asked.noted()
        assert (refused.series, refused.path, refused.received) == (("503", "no_place"), "/v1/predict/flowers", "1")
        assert refused.id == asked.answered_id
        assert await asked.ask(b"c", query=b"timeout_ms=1") == 503
        assert asyncio.create_task(asked.ask(b"d", path="/v1/tasks"))  # takes no place
        asked.may_answer.set()
        assert await first == 200
        assert await asked.ask(b"e") == 200

    asyncio.run(check())


def test_a_body_that_does_not_come_takes_no_place(monkeypatch, pipe):
    monkeypatch.setattr(proxy_gate, "REQUEST_S", 0.05)

    async def check() -> None:
        asked = Asked(pipe)
        asked.may_answer.set()
        headers = [(b"content-length", b"10")]
        scope = {"type": "http", "method": "POST", "path": "/v1/predict/a", "query_string": b"", "headers": headers}
        sent = []

        async def receive() -> None:
            await asyncio.Event().wait()

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        await asked.gate(scope, receive, send)
        assert sent[0]["status"] == 408
        assert [each.series for each in asked.noted()] == [("408", "slow_client")]
        assert await asked.ask(b"a") == 200

    asyncio.run(check())


def test_keys_get_like_parts_however_much_they_ask():
    async def check() -> Counter[bytes]:
        places, served, stop = FairPlaces(2), Counter(), False

        async def client(key: bytes) -> None:
            while not stop:
                if await places.take(key, 5.0):
                    await asyncio.sleep(0)
                    served[key] += 1
                    places.give_back()

        clients = [
            asyncio.create_task(client(key)) for key, count in ((b"many", 60), (b"few", 4)) for _ in range(count)
        ]
        while sum(served.values()) < 2000:
            await asyncio.sleep(0)
        stop = True
        await asyncio.gather(*clients)
        return served

    served = asyncio.run(check())
    assert 0.8 < served[b"many"] / served[b"few"] < 1.25


def test_no_place_is_lost_where_waiting_ends_as_a_place_comes():
    async def check() -> None:
        places = FairPlaces(3)

        async def client(number: int) -> None:
            for round_ in range(20):
                if await places.take(b"%d" % (number % 3), 0.001 * (1 + (number + round_) % 4)):
                    await asyncio.sleep(0.001 * (round_ % 3))
                    places.give_back()

        clients = [asyncio.create_task(client(number)) for number in range(40)]
        await asyncio.sleep(0.01)
        for each in clients[::5]:
            each.cancel()  # as of a client that goes away; some hold a place then
        await asyncio.gather(*clients, return_exceptions=True)
        assert not places._waiting
        assert not places._had
        assert places._count == 0

    asyncio.run(check())


@pytest.mark.parametrize(("query", "expected"), [(b"", 5.0), (b"timeout_ms=500", 0.25), (b"timeout_ms=x", 5.0),
                                                 (b"timeout_ms=99999", 5.0), (b"timeout_ms=-1", 0.0)])  # fmt: skip
def test_how_long_a_request_may_wait(query, expected):
    assert time_for(query, 5.0) == expected


def test_the_proxys_process_finds_the_gate_of_the_plan(monkeypatch):
    given = environment(PLAN, Path("/private"))
    assert given["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "serving.cluster.proxy_gate.middlewares"
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(proxy_gate, "keep_servers", lambda: None)
    gate, end = middlewares()
    assert gate.cls is ProxyGate
    assert json.loads(given[SETTING]) == gate.kwargs
    assert gate.kwargs["reads"][-1] == "/full/v2/models"
    assert (end.cls, end.kwargs) == (ProxyEnd, {"path": "/private/end"})
