"""Bodies, headers, rates and wrong keys, over a real server where it matters."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import uvicorn
from support.asgi_calls import ask, talk
from support.oracle import png

from serving.http.api import Api, make_api
from serving.http.auth import ApiKeys
from serving.http.bodies import BodyBudget
from serving.http.limits import HttpLimits
from serving.http.rates import RateLimit
from serving.runtime.predictor import Predictor
from store.errors import UnknownKeyError
from store.registry.store import Store
from store.registry.tenant_store import new_key

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
LIMITS = HttpLimits(
    body_s=1.0, chunk_s=0.4, image_nbytes=1 << 20, bodies_nbytes=2 << 20, bodies_of_a_key_nbytes=1 << 20
)


@dataclass(frozen=True)
class Served:
    """A real HTTP server over the API."""

    port: int

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, object]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, url, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@contextmanager
def serving(api: Api) -> Iterator[Served]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def served(predictor: Predictor, store: Store) -> Iterator[Served]:
    with serving(make_api(predictor, store, keys=False, limits=LIMITS)) as served:
        yield served


def head(length: int, *extra: str) -> bytes:
    lines = ("POST /v1/predict/acme/cars HTTP/1.1", "Host: x", f"Content-Length: {length}", *extra, "", "")
    return "\r\n".join(lines).encode()


def answer(raw: socket.socket) -> tuple[int, dict[str, object]]:
    response = http.client.HTTPResponse(raw)
    response.begin()
    return response.status, json.loads(response.read())


def test_a_body_whose_next_piece_does_not_come_is_408_and_so_is_one_that_drips(served: Served) -> None:
    with served.raw() as half, served.raw() as drip:
        half.sendall(head(1000) + b"x")
        drip.sendall(head(1000))

        def send_slowly() -> None:
            try:
                for _ in range(30):
                    drip.sendall(b"x")
                    time.sleep(0.1)
            except OSError:
                pass

        sender = threading.Thread(target=send_slowly)
        sender.start()
        for raw in (half, drip):
            status, body = answer(raw)
            assert (status, body["error"]) == (408, "Request Timeout")
        sender.join()
    assert served.ask("POST", "/v1/predict/acme/cars", IMAGE)[0] == 200


def test_hundreds_of_half_bodies_stop_neither_predictions_nor_health(served: Served) -> None:
    halves = [served.raw() for _ in range(300)]
    try:
        for raw in halves:
            raw.sendall(head(1000) + b"x")
        start = time.monotonic()
        assert served.ask("GET", "/healthz")[0] == 200
        assert served.ask("POST", "/v1/predict/acme/cars", IMAGE)[0] == 200
        assert time.monotonic() - start < 5
    finally:
        for raw in halves:
            raw.close()


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent_and_before_100_continue(served: Served) -> None:
    with served.raw() as raw:
        raw.sendall(head(1 << 40, "Expect: 100-continue"))
        status, body = answer(raw)
    assert (status, body["error"]) == (413, "Content Too Large")
    assert "1,048,576 bytes" in str(body["message"])


def test_a_task_that_is_not_there_is_said_before_the_body_is_sent(served: Served) -> None:
    with served.raw() as raw:
        raw.sendall(head(1000, "Expect: 100-continue").replace(b"acme/cars", b"acme/none"))
        assert answer(raw)[0] == 404


def test_headers_that_nobody_needs_are_431(served: Served) -> None:
    status, body = served.ask("GET", "/healthz", **{f"X-{index}": "y" * 1000 for index in range(20)})
    assert (status, body["error"]) == (431, "Request Header Fields Too Large")


def test_a_body_without_a_length_is_cut_off_at_the_limit(predictor: Predictor, store: Store) -> None:
    api = make_api(predictor, store, keys=False, limits=LIMITS)
    pieces = ({"type": "http.request", "body": bytes(1 << 16), "more_body": True} for _ in range(1000))
    reply = asyncio.run(talk(api, "POST", "/v1/predict/acme/cars", parts=pieces))
    assert reply.status == 413
    assert sum(1 for _ in pieces) > 900, "it went on reading"
    assert api.state.app_state.bodies.nbytes == 0


def test_bodies_in_memory_are_bounded_together_and_of_each_key() -> None:
    asyncio.run(hold_too_much(BodyBudget(LIMITS, per_key=True)))


async def hold_too_much(budget: BodyBudget) -> None:
    with budget.held("a") as first, budget.held("b") as second, budget.held("c") as third:
        first.take(1 << 20, 1 << 20)
        with pytest.raises(Exception, match="bodies of this key") as of_key:
            first.take(1, 1 << 20)
        second.take(1 << 19, 2 << 20)
        with pytest.raises(Exception, match="bodies take") as of_all:
            third.take(1 << 19, 2 << 20)
        third.take(1 << 19, 1 << 19)
    assert (of_key.value.status, of_all.value.status) == (429, 503)
    assert of_key.value.headers["retry-after"] == of_all.value.headers["retry-after"] == "1"
    assert budget.nbytes == 0


def test_bundles_on_their_way_are_bounded() -> None:
    budget = BodyBudget(HttpLimits(bundles=1), per_key=False)
    with budget.bundle(), pytest.raises(Exception, match="1 bundles are on their way") as refused, budget.bundle():
        pass
    assert refused.value.status == 503
    with budget.bundle():
        pass


def test_a_key_that_sends_faster_than_its_rate_is_429_and_another_is_not(predictor: Predictor, store: Store) -> None:
    secrets = []
    for _ in range(2):
        key, secret = new_key("acme", ("read",))
        store.put_key(key)
        secrets.append(secret)
    api = make_api(predictor, store, keys=True, limits=HttpLimits(rate_limit=2))

    def status(secret: str) -> int:
        return ask(
            api, "POST", "/v1/predict/acme/cars", body=IMAGE, headers={"authorization": f"Bearer {secret}"}
        ).status

    assert [status(secrets[0]) for _ in range(6)].count(200) in (4, 5)
    assert status(secrets[0]) == 429
    assert status(secrets[1]) == 200


def test_a_bucket_fills_with_time_and_never_above_its_burst(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bucket = RateLimit(2.0, burst=4)
    for _ in range(4):
        assert bucket.wait_s("a") == 0
        bucket.take("a")
    assert bucket.wait_s("a") == pytest.approx(0.5)
    now += 0.5
    assert bucket.wait_s("a") == pytest.approx(0, abs=1e-9)
    bucket.take("a", 3)
    assert bucket.wait_s("a") == pytest.approx(1.5)
    now += 1000
    bucket.take("a", 4)
    assert bucket.wait_s("a") == pytest.approx(0.5)


@dataclass
class Counted:
    """A store that counts how often keys are looked up."""

    store: Store
    looked: int = 0

    def api_key(self, identifier: str) -> object:
        self.looked += 1
        return self.store.api_key(identifier)


def test_a_flood_of_wrong_keys_is_refused_without_look_ups_and_a_right_one_is_served(
    store: Store, predictor: Predictor
) -> None:
    key, secret = new_key("acme", ("read",))
    store.put_key(key)
    counted = Counted(store)
    keys = ApiKeys(counted, predictor.versions, HttpLimits(unknown_keys_of_a_client=5))

    async def flood() -> list[str]:
        await keys.find(secret, "127.0.0.1")
        outcomes = []
        for index in range(200):
            wrong = "junk" if index % 2 else new_key(None, ("admin",))[1]
            try:
                await keys.find(wrong, "127.0.0.1")
            except UnknownKeyError:
                outcomes.append("401")
            except Exception as error:
                outcomes.append(str(error.status))
        assert await keys.find(secret, "127.0.0.1") == store.api_key(key.id)
        return outcomes

    outcomes = asyncio.run(flood())
    assert outcomes.count("401") >= 100
    assert outcomes.count("429") >= 80
    assert counted.looked < 25
    keys.close()


def test_the_documented_limits_are_those_that_hold() -> None:
    text = (Path(__file__).parents[4] / "docs" / "http.md").read_text("utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \| ([\w.,]+) \|", text, re.MULTILINE))
    there = {field.name: getattr(HttpLimits(), field.name) for field in dataclasses.fields(HttpLimits)}
    assert {name: f"{value:,}" if value is not None else "None" for name, value in there.items()} == documented
