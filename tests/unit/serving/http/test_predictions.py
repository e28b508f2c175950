from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import pytest
import torch
from support.oracle import make_backbone, make_task, png

from serving.http.api import make_api
from serving.http.cancellation import wait_for
from serving.http.errors import ClientGoneError
from serving.prediction import Prediction
from serving.runtime.predictor import Predictor
from store.errors import ImageError
from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
Message = dict[str, object]


@dataclass(frozen=True)
class Reply:
    status: int
    body: dict[str, object]


@dataclass
class Client:
    """Speaks ASGI to the API in this process; `leave` is when it goes away, if it does."""

    predictor: Predictor
    store: Store
    keys: bool = False

    def ask(self, query: list[tuple[str, object]], *, body: bytes = IMAGE, key: str = "") -> Reply:
        async def stay() -> None:
            await asyncio.Event().wait()

        return asyncio.run(self.talk(query, body=body, key=key, leave=stay))

    async def talk(
        self,
        query: list[tuple[str, object]],
        *,
        leave: Callable[[], Awaitable[None]],
        body: bytes = IMAGE,
        key: str = "",
    ) -> Reply:
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])
        sent: list[Message] = []

        async def receive() -> Message:
            for message in messages:
                return message
            await leave()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/predict", "root_path": "",
            "headers": [(b"authorization", f"Bearer {key}".encode())] if key else [],
            "query_string": urllib.parse.urlencode(query).encode(), "scheme": "http", "server": ("test", 80),
        }  # fmt: skip
        await make_api(self.predictor, self.store, keys=self.keys)(scope, receive, send)
        start, *parts = sent
        return Reply(start["status"], json.loads(b"".join(part["body"] for part in parts)))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    """A store of three tasks of two tenants."""
    folder = tmp_path_factory.mktemp("predictions")
    backbone = make_backbone(folder / "backbone")
    with Store.open(folder / "store", create=True) as opened:
        opened.add_backbone(backbone.record, encode(backbone))
        for name, depth in (("acme/short", 2), ("acme/long", 4), ("globex/secret", 1)):
            made = make_task(backbone, folder / str(depth), depth=depth, classes=3, seed=depth)
            opened.publish(name, made.folder, backbone=backbone.record.name, depth=depth)
        yield opened


@pytest.fixture(scope="module")
def predictor(store: Store) -> Iterator[Predictor]:
    with Predictor(store, dtype="float32") as predictor:
        yield predictor


@pytest.fixture
def client(predictor: Predictor, store: Store) -> Client:
    return Client(predictor, store)


def test_one_image_for_two_tasks_gets_both_answers_in_order_each_as_predict_gives_it(client: Client) -> None:
    reply = client.ask([("ref", "acme/long"), ("ref", "acme/short:1"), ("top", 2), ("logits", "true")])
    assert reply.status == 200
    answers = reply.body["answers"]
    assert [(answer["task"], answer["depth"]) for answer in answers] == [("acme/long", 4), ("acme/short", 2)]
    for ref, answer in zip(("acme/long", "acme/short"), answers, strict=True):
        alone = client.predictor.predict(ref, IMAGE).to_dict(top=2, logits=True)
        assert answer["logits"] == pytest.approx(alone["logits"], abs=1e-5)
        assert [top["label"] for top in answer["top"]] == [top["label"] for top in alone["top"]]


@pytest.mark.parametrize(
    ("query", "body", "status", "error", "remedy"),
    [
        ([], IMAGE, 400, "InvalidSettingError", "ref: Field required"),
        ([("ref", "acme/short"), ("ref", "acme/shor")], IMAGE, 404, "TaskNotFoundError", "did you mean 'acme/short'"),
        ([("ref", "acme/short")], b"no image", 400, "ImageError", "send a JPEG"),
        ([("ref", "acme/short"), ("timeout_ms", 0)], IMAGE, 400, "InvalidSettingError", "timeout_ms: "),
        ([("ref", "acme/short"), ("timeout_ms", 1e-6)], IMAGE, 503, "DeadlineError", "give it more time (timeout_ms)"),
        ([("ref", "acme/short")] * 257, IMAGE, 400, "InvalidSettingError", "at most 256"),
    ],
)
def test_what_cannot_be_answered_gets_its_status_and_one_line_with_the_remedy(
    client: Client, query, body, status, error, remedy
):
    reply = client.ask(query, body=body)
    assert (reply.status, reply.body["error"]) == (status, error)
    assert remedy in reply.body["message"]
    assert "\n" not in reply.body["message"]


def test_with_time_enough_the_answer_comes(client: Client) -> None:
    assert client.ask([("ref", "acme/short"), ("timeout_ms", 60_000)]).status == 200


def test_where_keys_are_asked_for_every_task_named_must_be_the_keys_own(predictor: Predictor, store: Store) -> None:
    key, secret = new_key("acme", ("read",))
    store.put_key(key)
    client = Client(predictor, store, keys=True)
    assert client.ask([("ref", "acme/short")]).status == 401
    assert client.ask([("ref", "acme/short")], key=secret).status == 200
    refused = client.ask([("ref", "acme/short"), ("ref", "globex/secret")], key=secret)
    nowhere = client.ask([("ref", "acme/short"), ("ref", "globex/nothing")], key=secret)
    assert refused.status == nowhere.status == 404
    assert refused.body["message"].replace("secret", "nothing") == nowhere.body["message"]


def test_a_client_that_leaves_is_not_answered_and_the_next_one_is(client: Client) -> None:
    async def leave() -> None:
        """Return at once."""

    reply = asyncio.run(client.talk([("ref", "acme/long")], leave=leave))
    assert (reply.status, reply.body["error"]) == (499, "Client Closed Request")
    assert client.ask([("ref", "acme/long")]).status == 200


async def wait_until(left: asyncio.Event) -> Message:
    await left.wait()
    return {"type": "http.disconnect"}


def test_answers_that_a_client_waited_for_are_cancelled_when_it_leaves() -> None:
    answers: tuple[Future[Prediction], ...] = (Future(), Future())

    async def run() -> object:
        left = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, left.set)
        return await wait_for(answers, lambda: wait_until(left))

    with pytest.raises(ClientGoneError):
        asyncio.run(run())
    assert all(answer.cancelled() for answer in answers)


def test_where_one_answer_fails_the_others_are_cancelled_and_the_failure_is_raised() -> None:
    answers: tuple[Future[Prediction], ...] = (Future(), Future())
    answers[0].set_exception(ImageError("torn"))

    async def run() -> object:
        return await wait_for(answers, lambda: wait_until(asyncio.Event()))

    with pytest.raises(ImageError, match="torn"):
        asyncio.run(run())
    assert answers[1].cancelled()
