"""Health that is true, and errors that tell no secret."""

from __future__ import annotations

import threading
import time

import torch
from support.asgi_calls import ask
from support.oracle import png

from serving.http.api import make_api
from serving.runtime.predictor import Predictor
from store.errors import StorageError
from store.registry.store import Store

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


def test_a_server_without_keys_tells_no_path_and_no_user(predictor: Predictor, store: Store) -> None:
    api = make_api(predictor, store, keys=False)
    history = ask(api, "GET", "/v1/history/acme/cars")
    assert {event["actor"] for event in history.body} == {"operator"}
    for url in ("/v1/tasks/acme/none", "/v1/versions/acme/cars:9", "/v1/history/acme/none", "/v1/bundles/acme/none"):
        reply = ask(api, "GET", url)
        assert reply.status == 404
        assert str(store.url) not in reply.content.decode()


def test_the_store_that_fails_is_503_without_its_path(predictor: Predictor, store: Store, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError(f"{store.url}/catalogue.db: disk I/O error")

    monkeypatch.setattr(predictor.tasks, "choose", fail)
    monkeypatch.setattr(predictor.tasks, "cached", lambda *_: None)
    reply = ask(make_api(predictor, store, keys=False), "POST", "/v1/predict/acme/cars", body=IMAGE)
    assert (reply.status, reply.body["error"], reply.headers["retry-after"]) == (503, "StorageError", "1")
    assert str(store.url) not in reply.content.decode()


def test_ready_says_why_not_and_alive_goes_on(predictor: Predictor, store: Store, monkeypatch) -> None:
    api = make_api(predictor, store, keys=False)
    assert ask(api, "GET", "/readyz").body == {"status": "ready"}

    def stuck() -> None:
        raise RuntimeError("one block has been running for 12 s: restart the replica")

    monkeypatch.setattr(predictor, "check", stuck)
    reply = ask(api, "GET", "/readyz")
    assert (reply.status, reply.body["status"]) == (503, "not ready")
    assert "12 s" in reply.body["reason"]
    assert ask(api, "GET", "/healthz").status == 200
    assert ask(api, "POST", "/readyz").status == 405
    assert ask(api, "HEAD", "/healthz").status == 200


def test_while_the_store_is_away_it_is_ready_for_known_tasks_until_what_was_known_is_too_old(
    predictor: Predictor, store: Store, monkeypatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr("serving.http.health.ASK_S", 0.0)
    monkeypatch.setattr(type(store), "last_change", lambda _: free.wait(30) and "changed")
    api = make_api(predictor, store, keys=False)

    def until(status: int, key: str) -> str:
        start = time.monotonic()
        while (reply := ask(api, "GET", "/readyz")).status != status or key not in reply.body:
            assert time.monotonic() - start < 5
            time.sleep(0.02)
        return reply.body[key]

    assert "known tasks go on" in until(200, "store")
    monkeypatch.setattr(predictor.versions._watch, "_stale_s", 0.0)
    assert until(503, "reason") == "the store does not answer (StorageError)"
    assert ask(api, "GET", "/healthz").status == 200
    free.set()
