"""Triton's stock clients as the tests use them, and the server that they ask; only where they are installed."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from support.oracle import png

CLIENTS = {kind: pytest.importorskip(f"tritonclient.{kind}") for kind in ("http", "grpc")}
ServerError = pytest.importorskip("tritonclient.utils").InferenceServerException
TASK, OTHER = "acme/cars", "globex/secret"
COUNT = 8


@dataclass(frozen=True)
class Served:
    """A server with keys on two ports, and the secrets of two tenants."""

    url: str
    grpc: str
    secrets: dict[str, str]

    def rest(self, image: bytes, ref: str = TASK) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.secrets['acme']}"}
        reply = requests.post(f"{self.url}/v1/predict/{ref}?logits=true&top=9", data=image, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


@dataclass(frozen=True)
class Peer:
    """One of the two clients; the calls that both have are the same but for the type of an answer."""

    kind: str
    client: Any
    headers: dict[str, str]

    @property
    def module(self) -> Any:
        return CLIENTS[self.kind]

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        as_json = {"as_json": True} if self.kind == "grpc" and method.startswith("get_") else {}
        return getattr(self.client, method)(*arguments, headers=self.headers, **as_json, **named)

    def tensor(self, name: str, datatype: str, values: np.ndarray[Any, Any]) -> Any:
        given = self.module.InferInput(name, list(values.shape), datatype)
        given.set_data_from_numpy(values)
        return given

    def images(self, images: list[bytes]) -> Any:
        return self.tensor("image", "BYTES", np.array(images, dtype=object))

    def infer(self, given: Any, name: str = TASK, **options: Any) -> Any:
        return self.call("infer", name, [given], **options)


def connect(served: Served, kind: str, secret: str) -> Peer:
    address = served.url.removeprefix("http://") if kind == "http" else served.grpc
    return Peer(kind, CLIENTS[kind].InferenceServerClient(address), {"authorization": f"Bearer {secret}"})


def image(seed: int, size: int = 32) -> bytes:
    values = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(seed))
    return png(values.to(torch.uint8))


def pixels(seed: int, size: int = 32) -> np.ndarray[Any, Any]:
    return np.array(Image.open(io.BytesIO(image(seed, size))).convert("RGB"))


def check(result: Any, expected: list[dict[str, Any]]) -> None:
    """Assert that an answer is that of the REST route, in its logits, scores and labels."""
    assert result.as_numpy("logits") == pytest.approx(np.array([each["logits"] for each in expected]), abs=1e-4)
    assert [label.decode() for label in result.as_numpy("label")] == [each["top"][0]["label"] for each in expected]
    best = result.as_numpy("scores").max(axis=1)
    assert best == pytest.approx([each["top"][0]["score"] for each in expected], abs=1e-5)


def until(is_over: Any) -> None:
    end = time.monotonic() + 60
    while not is_over():
        assert time.monotonic() < end
        time.sleep(0.01)
