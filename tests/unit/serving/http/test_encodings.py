"""Compressed bodies: understood by both protocols of predictions, bounded, and refused elsewhere in words."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import pytest
import torch
from support.asgi_calls import ask
from support.oracle import png

from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from store.registry.store import Store

TASK = "acme/cars"
IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
INPUT = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(IMAGE).decode()]}


@pytest.fixture(scope="module")
def api(predictor: Predictor, store: Store) -> Any:
    return make_api(predictor, store, keys=False)


def squeeze(data: bytes, kind: str) -> bytes:
    return gzip.compress(data, mtime=0) if kind == "gzip" else zlib.compress(data)


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_compressed_bodies_are_understood_by_both_protocols(api: Any, kind: str) -> None:
    given = {"content-encoding": kind}
    plain = ask(api, "POST", f"/v1/predict/{TASK}?logits=true", body=IMAGE).body
    reply = ask(api, "POST", f"/v1/predict/{TASK}?logits=true", body=squeeze(IMAGE, kind), headers=given)
    assert reply.body["logits"] == pytest.approx(plain["logits"], abs=1e-5)
    body = squeeze(json.dumps({"inputs": [INPUT]}).encode(), kind)
    assert ask(api, "POST", f"/v2/models/{TASK}/infer", body=body, headers=given).status == 200


@pytest.mark.parametrize(("body", "encoding", "status", "message"), [
    (gzip.compress(bytes(4 << 20), mtime=0), "gzip", 413, "larger than 1,048,576 bytes"),
    (gzip.compress(b"x" * 1000, mtime=0)[:-4], "gzip", 400, "ends too early"),
    (gzip.compress(b"x", mtime=0) + b"y", "gzip", 400, "bytes follow"),
    (b"no gzip", "gzip", 400, "is not what its content-encoding"),
    (b"", "gzip", 400, "ends too early"),
    (b"x", "br", 415, "send the body as it is, or as gzip or deflate"),
    (b"x", "gzip, gzip", 415, "send the body as it is, or as gzip or deflate"),
])  # fmt: skip
def test_what_compressed_bodies_expand_to_is_bounded(
    predictor: Predictor, store: Store, body: bytes, encoding: str, status: int, message: str
) -> None:
    bounded = make_api(predictor, store, keys=False, limits=HttpLimits(image_nbytes=1 << 20))
    for path in (f"/v1/predict/{TASK}", f"/v2/models/{TASK}/infer"):
        reply = ask(bounded, "POST", path, body=body, headers={"content-encoding": encoding})
        assert (reply.status, message in reply.content.decode()) == (status, True), reply.content
    assert bounded.state.app_state.bodies.nbytes == 0


def test_the_registry_refuses_compressed_bodies_in_words(api: Any) -> None:
    reply = ask(api, "PUT", "/v1/bundles/acme/new", body=gzip.compress(b"x"), headers={"content-encoding": "gzip"})
    assert (reply.status, "send the body as it is" in reply.body["message"]) == (415, True)
