from __future__ import annotations

import asyncio
import random
import re
import struct
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from support.asgi_calls import Message, Reply, ask
from support.oracle import png
from support.random_store import random_store
from support.slow_predictions import make_slow_api

from serving.http.api import make_api
from serving.http.cancellation import wait_for
from serving.http.errors import ClientGoneError
from serving.prediction import Prediction
from serving.runtime.predictor import Predictor
from store.errors import ImageError
from store.registry.store import Store
from store.registry.tenant_store import new_key

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


@dataclass
class Client:
    """Speaks ASGI to the API in this process."""

    predictor: Predictor
    store: Store
    keys: bool = False

    def ask(self, query: list[tuple[str, object]], *, body: bytes = IMAGE, key: str = "", **given: Any) -> Reply:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = f"/v1/predict?{urllib.parse.urlencode(query)}"
        return ask(
            make_api(self.predictor, self.store, keys=self.keys), "POST", url, body=body, headers=headers, **given
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    """A store of three tasks of two tenants."""
    folder = tmp_path_factory.mktemp("predictions")
    with random_store(folder, ("acme/short", 2), ("acme/long", 4), ("globex/secret", 1)) as opened:
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

    reply = client.ask([("ref", "acme/long")], leave=leave)
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


REFS = ["acme/short", "acme/long:1", "acme/short@latest", "globex/secret", "acme/none", "acme/short:9", "a b", "", "@"]
NAMES = ["top", "logits", "timeout_ms", "ref", "other"]
VALUES = [
    "1",
    "2",
    "0",
    "-1",
    "",
    "many",
    "true",
    "no",
    "1.5",
    "60000",
    "acme/short",
    "nan",
    "1e400",
    "é",
    "%00",
    "None",
]
# A deadline of a few milliseconds may be met by one of the two and missed by the other.
TIMES = [value for value in VALUES if value not in {"1", "2", "1.5"}]
VALUES_OF = {"ref": REFS, "timeout_ms": TIMES}


def test_predictions_are_what_fastapi_would_answer_to_any_query_and_any_key(predictor: Predictor, store: Store) -> None:
    key, secret = new_key("acme", ("read",))
    store.put_key(key)
    fast = make_api(predictor, store, keys=True)
    slow = make_slow_api(predictor, fast.state.app_state)
    source = random.Random(7)
    statuses = set()
    for _ in range(300):
        names = source.choices(NAMES, k=source.randrange(4))
        query = [(name, source.choice(VALUES_OF.get(name, VALUES))) for name in names]
        ref = source.choice(REFS)
        path = "/v1/predict" if source.random() < 0.4 else f"/v1/predict/{urllib.parse.quote(ref)}"
        given = {
            "headers": {"authorization": f"Bearer {source.choice([secret, secret, secret, 'wrong'])}"},
            "body": source.choice([IMAGE, IMAGE, b"no image"]),
        }
        method = source.choice(["POST"] * 9 + ["GET", "PUT", "HEAD"])
        url = f"{path}?{urllib.parse.urlencode(query)}"
        got, expected = (ask(api, method, url, **given) for api in (fast, slow))
        assert (got.status, got.headers["content-type"]) == (expected.status, expected.headers["content-type"]), url
        if got.status != 200:
            assert got.body == expected.body, url
        else:
            assert labels(got.body) == labels(expected.body), url
        statuses.add(got.status)
    assert statuses >= {200, 400, 401, 404, 405}


def labels(body: dict[str, Any]) -> object:
    """The answers without their scores, whose last bits depend on the batch."""
    answers = body.get("answers", [body])
    return [
        (a["task"], a["version"], [t["label"] for t in a["top"]], len(a.get("logits", ())), a.keys()) for a in answers
    ]


def binary(images: list[bytes]) -> tuple[bytes, str]:
    return b"".join(struct.pack("<I", len(image)) + image for image in images), "application/vnd.onetrunk.images"


def multipart(images: list[bytes]) -> tuple[bytes, str]:
    head = 'Content-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
    parts = b"".join(b"--a-boundary\r\n" + head.encode() + image + b"\r\n" for image in images)
    return parts + b"--a-boundary--\r\n", 'multipart/form-data; boundary="a-boundary"'


def shades(count: int) -> list[bytes]:
    return [png(torch.full((32, 32, 3), 20 * index, dtype=torch.uint8)) for index in range(count)]


@pytest.mark.parametrize("encode_images", [binary, multipart])
def test_several_images_get_their_answers_in_order(client: Client, encode_images) -> None:
    images = [*shades(5), IMAGE]
    body, kind = encode_images(images)
    api = make_api(client.predictor, client.store, keys=False)
    reply = ask(api, "POST", "/v1/predict/acme/long?logits=1", body=body, headers={"content-type": kind})
    assert reply.status == 200
    for image, answer in zip(images, reply.body["answers"], strict=True):
        assert answer["logits"] == pytest.approx(client.predictor.predict("acme/long", image).logits, abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "status", "error", "message"),
    [
        (lambda _: binary([IMAGE, b"no image", IMAGE]), 400, "ImageError", r"images\[1\]: 8 bytes beginning"),
        (lambda _: multipart([IMAGE, b""]), 400, "ImageError", r"images\[1\]: 0 bytes"),
        (lambda body: (body[0][:-1], body[1]), 400, "FormatError", r"images\[1\] has "),
        (lambda body: (body[0] + b"\x01", body[1]), 400, "FormatError", r"within the length of images\[2\]"),
        (lambda _: (b"", "application/vnd.onetrunk.images"), 400, "FormatError", "no image"),
        (lambda _: binary([IMAGE] * 65), 413, "Content Too Large", "more than 64 images"),
        (lambda _: multipart([IMAGE] * 65), 413, "Content Too Large", "more than 64 images"),
        (lambda _: (multipart([IMAGE])[0], "multipart/form-data"), 400, "FormatError", "names no boundary"),
        (lambda _: (b"x" + multipart([IMAGE])[0], multipart([])[1]), 400, "FormatError", "begin with its boundary"),
        (lambda _: (multipart([IMAGE])[0][:-16], multipart([])[1]), 400, "FormatError", "has no end"),
    ],
)
def test_several_images_that_cannot_all_be_answered_are_refused_by_index(client, spoil, status, error, message) -> None:
    body, kind = spoil(binary([IMAGE, IMAGE]))
    api = make_api(client.predictor, client.store, keys=False)
    reply = ask(api, "POST", "/v1/predict/acme/long", body=body, headers={"content-type": kind})
    assert (reply.status, reply.body["error"]) == (status, error)
    assert re.search(message, reply.body["message"])


def test_several_images_go_to_one_task(client: Client) -> None:
    body, kind = binary([IMAGE, IMAGE])
    api = make_api(client.predictor, client.store, keys=False)
    url = "/v1/predict?ref=acme/long&ref=acme/short"
    assert ask(api, "POST", url, body=body, headers={"content-type": kind}).status == 400
