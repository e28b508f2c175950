"""Ask for one image over every protocol, and say in what the answers differ: they must be the same to the last bit.

`python -m support.same_answers HTTP_PORT GRPC_PORT` asks a server of the demo's store for the demo's stream.
"""

from __future__ import annotations

import base64
import http.client
import json
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import numpy as np

from onetrunk.cli.demo import WHOLE, Plan, draw_samples, load_embedded
from serving.benchmark.load import LoadRequest
from serving.grpc.messages import message

INFER = "/inference.GRPCInferenceService/ModelInfer"
HEADER = "Inference-Header-Content-Length"
TIMEOUT_S = 60


class Answer(NamedTuple):
    """What a protocol said of one image, in the protocols' common words."""

    version: str
    depth: int
    label: str
    logits: tuple[float, ...]
    scores: tuple[float, ...]
    """Of all classes, the greatest first."""


@dataclass(frozen=True)
class Protocols:
    """One server, asked over REST, over HTTP in JSON and in binary, and over gRPC."""

    http: http.client.HTTPConnection
    grpc: Any

    def differences(self, ref: str, image: bytes, **headers: str) -> Sequence[str]:
        """Return the protocols whose answer is not REST's."""
        rest = self.rest(ref, image, headers)
        others = {"JSON": self.json, "binary": self.binary, "whole body": self.whole_body, "gRPC": self.over_grpc}
        found = {name: ask(ref, image, headers) for name, ask in others.items()}
        return [f"{name} of {ref}: {answer}, not {rest}" for name, answer in found.items() if answer != rest]

    def rest(self, ref: str, image: bytes, headers: Mapping[str, str]) -> Answer:
        body, _ = self._post(f"/v1/predict/{ref}?logits=true&top=1000", image, headers)
        said = json.loads(body)
        scores = tuple(each["score"] for each in said["top"])
        return Answer(str(said["version"]), said["depth"], said["top"][0]["label"], tuple(said["logits"]), scores)

    def json(self, ref: str, image: bytes, headers: Mapping[str, str]) -> Answer:
        data = [base64.b64encode(image).decode()]
        given = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]}
        return read(*self._post(f"/v2/models/{ref}/infer", json.dumps(given).encode(), headers))

    def binary(self, ref: str, image: bytes, headers: Mapping[str, str]) -> Answer:
        element = struct.pack("<I", len(image)) + image
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(element)}}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        return read(*self._post(f"/v2/models/{ref}/infer", head + element, {**headers, HEADER: str(len(head))}))

    def whole_body(self, ref: str, image: bytes, headers: Mapping[str, str]) -> Answer:
        return read(*self._post(f"/v2/models/{ref}/infer", image, {**headers, HEADER: "0"}))

    def over_grpc(self, ref: str, image: bytes, headers: Mapping[str, str]) -> Answer:
        request = message("ModelInferRequest")(model_name=ref)
        request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(image)
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        content = self.grpc.unary_unary(INFER)(request.SerializeToString(), timeout=TIMEOUT_S, metadata=metadata)
        said = message("ModelInferResponse").FromString(content)
        raw = dict(zip([output.name for output in said.outputs], said.raw_output_contents, strict=True))
        depth = next(entry.value.int64_param for entry in said.parameters if entry.key == "depth")
        return answer_of(said.model_version, depth, raw)

    def _post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, str | None]:
        self.http.request("POST", path, body, dict(headers))
        response = self.http.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content, response.headers[HEADER]


def read(body: bytes, head_nbytes: str | None) -> Answer:
    """Read an answer of the Open Inference Protocol over HTTP."""
    at = len(body) if head_nbytes is None else int(head_nbytes)
    head = json.loads(body[:at])
    found: dict[str, Any] = {}
    for output in head["outputs"]:
        nbytes = output.get("parameters", {}).get("binary_data_size", 0)
        found[output["name"]] = output.get("data", body[at : at + nbytes])
        at += nbytes
    return answer_of(head["model_version"], head["parameters"]["depth"], found)


def answer_of(version: str, depth: int, outputs: Mapping[str, Any]) -> Answer:
    """Return the answer of tensors, each a list of values or their bytes."""
    label = outputs["label"]
    said = label[4:].decode() if isinstance(label, bytes) else label[0]
    return Answer(
        version, depth, said, tuple(floats(outputs["logits"])), tuple(sorted(floats(outputs["scores"]), reverse=True))
    )


def floats(values: Any) -> list[float]:
    given = np.frombuffer(values, "<f4") if isinstance(values, bytes) else np.array(values, "<f4")
    found: list[float] = given.tolist()
    return found


def stream(plan: Plan = WHOLE) -> Sequence[LoadRequest]:
    """Return the demo's stream of images."""
    return draw_samples({name: load_embedded(plan, name) for name in plan.tasks}, plan.images_per_task)


@contextmanager
def connected(http_port: int, grpc_port: int) -> Iterator[Protocols]:
    with (
        closing(http.client.HTTPConnection("127.0.0.1", http_port, timeout=TIMEOUT_S)) as connection,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        yield Protocols(connection, channel)


def compare(protocols: Protocols, samples: Sequence[LoadRequest]) -> Iterator[str]:
    for sample in samples:
        yield from protocols.differences(sample.ref, sample.image)


def main() -> None:
    http_port, grpc_port = map(int, sys.argv[1:])
    samples = stream()
    with connected(http_port, grpc_port) as protocols:
        found = list(compare(protocols, samples))
    sys.stdout.write(f"{len(samples)} images, {len(found)} answers that differ\n" + "\n".join(found[:20]))


if __name__ == "__main__":
    main()
