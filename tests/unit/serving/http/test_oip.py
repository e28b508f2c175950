"""The Open Inference Protocol over HTTP: its answers are the REST routes' answers, and so are its refusals."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.asgi_calls import Reply, ask
from support.oracle import png
from support.random_store import random_store

from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from store.images.fitting import fit
from store.registry.store import Store
from store.weights.preprocessing import Normalise

TASK = "acme/cars"
LENGTH = "inference-header-content-length"
INPUT = {"name": "image", "datatype": "BYTES"}


def image(seed: int, height: int = 32, width: int = 32) -> bytes:
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return png(values.to(torch.uint8))


def pixels_of(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with random_store(tmp_path_factory.mktemp("oip"), (TASK, 2), (TASK, 3), ("globex/secret", 1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def api(predictor: Predictor, store: Store) -> Any:
    return make_api(predictor, store, keys=False)


def infer(api: Any, head: dict[str, Any], binary: bytes | None = None, *, name: str = TASK, **headers: str) -> Reply:
    encoded = json.dumps(head).encode()
    sent = encoded if binary is None else encoded + binary
    given = headers if binary is None else {LENGTH: str(len(encoded)), **headers}
    return ask(api, "POST", f"/v2/models/{name}/infer", body=sent, headers=given)


def elements(images: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in images)


def read_outputs(reply: Reply) -> dict[str, Any]:
    """Return the outputs by name, whichever way each came."""
    nbytes = int(reply.headers.get(LENGTH, len(reply.content)))
    head, at, found = json.loads(reply.content[:nbytes]), nbytes, {}
    for output in head["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        raw = reply.content[at : at + output["parameters"]["binary_data_size"]]
        at += len(raw)
        found[output["name"]] = np.frombuffer(raw, "<f4").tolist() if output["datatype"] == "FP32" else raw
    assert at == len(reply.content)
    return found


def rest(api: Any, images: list[bytes], name: str = TASK) -> list[dict[str, Any]]:
    replies = [ask(api, "POST", f"/v1/predict/{name}?logits=true", body=each) for each in images]
    return [reply.body for reply in replies]


def request_of(kind: str, images: list[bytes], predictor: Predictor) -> tuple[dict[str, Any], bytes | None]:
    """Return the same images in one of the ways to send them."""
    count = len(images)
    if kind == "base64":
        return {**INPUT, "shape": [count], "data": [base64.b64encode(each).decode() for each in images]}, None
    if kind == "elements":
        raw = elements(images)
        return {**INPUT, "shape": [count, 1], "parameters": {"binary_data_size": len(raw)}}, raw
    pixels = np.stack([pixels_of(each) for each in images])
    if kind.startswith("pixels"):
        tensor, name, datatype = pixels, "pixels", "UINT8"
    else:
        preprocessing = predictor.records[0].id.preprocessing
        fitted = [fit(Image.fromarray(each), preprocessing).tobytes() for each in pixels]
        tensor = np.stack([Normalise(preprocessing)(each).numpy() for each in fitted])
        name, datatype = "normalised", "FP32"
    fields = {"name": name, "datatype": datatype, "shape": list(tensor.shape)}
    if kind.endswith("json"):
        return {**fields, "data": tensor.tolist()}, None
    return {**fields, "parameters": {"binary_data_size": tensor.nbytes}}, tensor.tobytes()


KINDS = ["base64", "elements", "pixels", "pixels json", "normalised", "normalised json"]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("binary_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_send_an_image_gets_the_answer_of_the_rest_route(
    api: Any, predictor: Predictor, kind: str, binary_output: bool, count: int
) -> None:
    images = [image(seed, 40, 50) for seed in range(count)]
    given, raw = request_of(kind, images, predictor)
    reply = infer(api, {"id": "7", "inputs": [given], "parameters": {"binary_data_output": binary_output}}, raw)
    assert reply.status == 200, reply.content
    outputs, expected = read_outputs(reply), rest(api, images)
    logits = [value for answer in expected for value in answer["logits"]]
    assert outputs["logits"] == pytest.approx(logits, abs=1e-5)
    labels = [answer["top"][0]["label"].encode() for answer in expected]
    assert outputs["label"] == (elements(labels) if binary_output else [label.decode() for label in labels])
    best = [max(outputs["scores"][at : at + 3]) for at in range(0, 3 * count, 3)]
    assert best == pytest.approx([answer["top"][0]["score"] for answer in expected], abs=1e-5)


def test_a_body_without_json_is_one_image(api: Any) -> None:
    reply = ask(api, "POST", f"/v2/models/{TASK}/infer", body=image(1), headers={LENGTH: "0"})
    assert read_outputs(reply)["label"] == [rest(api, [image(1)])[0]["top"][0]["label"]]


@pytest.mark.parametrize("binary", [False, True])
def test_the_classification_extension_names_the_best_classes_as_the_rest_route_does(api: Any, binary: bool) -> None:
    given, raw = request_of("elements", [image(1), image(2)], api)
    asked = [{"name": name, "parameters": {"classification": 9, "binary_data": binary}} for name in ("scores",)]
    reply = infer(api, {"inputs": [given], "outputs": asked}, raw)
    (head,) = json.loads(reply.content[: int(reply.headers.get(LENGTH, len(reply.content)))])["outputs"]
    assert (head["shape"], head["datatype"]) == ([2, 3], "BYTES")
    expected = [(top["score"], top["label"]) for answer in rest(api, [image(1), image(2)]) for top in answer["top"]]
    if not binary:
        values = [text.split(":", 2) for text in head["data"]]
        assert [label for _, _, label in values] == [label for _, label in expected]
        assert [float(score) for score, _, _ in values] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_a_version_is_named_in_the_path_or_in_the_ref(api: Any) -> None:
    given, raw = request_of("elements", [image(1)], api)
    answers = {
        name: infer(api, {"inputs": [given]}, raw, name=name)
        for name in (f"{TASK}/versions/1", f"{TASK}:1", f"{TASK}@latest", TASK)
    }
    heads = {name: json.loads(reply.content) for name, reply in answers.items()}
    assert [(head["model_version"], head["parameters"]["depth"]) for head in heads.values()] == [
        *([("1", 2)] * 2),
        *([("2", 3)] * 2),
    ]
    refused = infer(api, {"inputs": [given]}, raw, name=f"{TASK}:1/versions/1")
    assert (refused.status, refused.body["kind"]) == (400, "InvalidNameError")


def one(**changes: object) -> dict[str, Any]:
    return {"inputs": [{**INPUT, "shape": [1], "data": [base64.b64encode(image(1)).decode()], **changes}]}


REFUSED: list[tuple[object, int, str]] = [
    ("no json", 400, "is not JSON"),
    ([], 400, "not a JSON object"),
    ({}, 400, "inputs are no list"),
    ({"inputs": []}, 400, "has 0 inputs"),
    ({"inputs": one()["inputs"] * 2}, 400, "has 2 inputs"),
    (one(name="picture"), 400, "is not an input of a task"),
    (one(datatype="FP16"), 400, "is not an input of a task"),
    (one(name=7), 400, "is not text"),
    (one(shape=[0]), 400, "sizes are from 1"),
    (one(shape=[-1]), 400, "sizes are from 1"),
    (one(shape="x"), 400, "give a list of sizes"),
    (one(shape=[65]), 413, "more than 64 images"),
    (one(shape=[2]), 400, "has 1 elements"),
    (one(data=["?"]), 400, "send base64"),
    (one(data=[7]), 400, "send base64"),
    (one(data=None), 400, "has no data"),
    (one(data=[[], 1]), 400, "not a tensor"),
    (one(data=[base64.b64encode(b"text").decode()]), 400, "images[0]: 4 bytes"),
    (one(parameters={"shared_memory_region": "a"}), 400, "shares no memory"),
    (one(parameters={"binary_data_size": 5}), 400, "bytes of the body are left"),
    (one(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], data=[1, 2, 256]), 400, "is not UINT8"),
    (one(name="pixels", datatype="UINT8", shape=[1, 1, 1, 3], data=["1", 2, 3]), 400, "is not UINT8"),
    (one(name="pixels", datatype="UINT8", shape=[1, 2, 1, 3], data=[1, 2, 3]), 400, "has 3 bytes: send 6"),
    (one(name="pixels", datatype="UINT8", shape=[1, 3, 1, 1], data=[1, 2, 3]), 400, "give [N, height, width, 3]"),
    (one(name="normalised", datatype="FP32", shape=[1, 3, 1, 1], data=[1, 2, 3]), 400, "give ['N', 3"),
    ({**one(), "parameters": {"sequence_id": 3}}, 400, "keeps a state"),
    ({**one(), "parameters": {"timeout": -3}}, 400, "microseconds"),
    ({**one(), "parameters": {"timeout": 1}}, 503, "timeout_ms"),
    ({**one(), "parameters": 3}, 400, "parameters are no object"),
    ({**one(), "outputs": [{"name": "boxes"}]}, 400, "is not an output of a task"),
    ({**one(), "outputs": [{"name": "label", "parameters": {"classification": 2}}]}, 400, "no values to classify"),
    ({**one(), "outputs": [{"name": "logits", "parameters": {"classification": True}}]}, 400, "number of classes"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "status", "message"), REFUSED, ids=str)
def test_what_cannot_be_answered_is_refused_in_one_line(api: Any, head: Any, status: int, message: str) -> None:
    reply = infer(api, head) if head != "no json" else ask(api, "POST", f"/v2/models/{TASK}/infer", body=b"\xff")
    assert reply.status == status, reply.content
    assert message in reply.body["error"]
    assert "\n" not in reply.body["error"]
    assert ("retry-after" in reply.headers) == (status == 503)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_is_not_normalised_is_refused(api: Any, predictor: Predictor, value: float) -> None:
    preprocessing = predictor.records[0].id.preprocessing
    tensor = np.full((1, 3, preprocessing.height, preprocessing.width), value, np.float32)
    given = {"name": "normalised", "datatype": "FP32", "shape": list(tensor.shape)}
    reply = infer(api, {"inputs": [{**given, "parameters": {"binary_data_size": tensor.nbytes}}]}, tensor.tobytes())
    assert (reply.status, "normalise it" in reply.body["error"]) == (400, True)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda raw: raw[:-1], "bytes of the body are left"),
    (lambda raw: raw + b"x", "1 bytes of the body belong to no input"),
    (lambda raw: b"\xff\xff\xff\xff" + raw[4:], "is shorter than its length says"),
])  # fmt: skip
def test_tensors_after_the_json_must_be_as_it_says(api: Any, spoil: Any, message: str) -> None:
    given, raw = request_of("elements", [image(1)], api)
    reply = infer(api, {"inputs": [given]}, spoil(raw))
    assert (reply.status, message in reply.body["error"]) == (400, True)


def test_json_is_bounded_apart_from_the_tensors(predictor: Predictor, store: Store) -> None:
    small = make_api(predictor, store, keys=False, limits=HttpLimits(json_nbytes=1000))
    given, raw = request_of("elements", [image(1)], small)
    assert infer(small, {"inputs": [given]}, raw).status == 200
    refused = infer(small, one())
    assert (refused.status, "send tensors as binary data" in refused.body["error"]) == (413, True)


def test_what_a_model_takes_and_gives_is_described(api: Any, predictor: Predictor) -> None:
    described = ask(api, "GET", f"/v2/models/{TASK}").body
    assert (described["name"], described["versions"], described["platform"]) == (TASK, ["1", "2"], "onetrunk")
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in described["inputs"]}["normalised"] == (
        "FP32", [-1, 3, predictor.records[0].id.preprocessing.height, predictor.records[0].id.preprocessing.width],
    )  # fmt: skip
    assert described["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 3]}
    assert ask(api, "GET", f"/v2/models/{TASK}/versions/2").body["versions"] == ["2"]
    assert ask(api, "GET", f"/v2/models/{TASK}/versions/9").status == 404


def test_the_repository_is_the_store_and_says_what_load_and_unload_mean(api: Any) -> None:
    rows = ask(api, "POST", "/v2/repository/index").body
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        (TASK, "2", "READY"), ("globex/secret", "1", "READY"),
    ]  # fmt: skip
    loaded = ask(api, "POST", f"/v2/repository/models/{TASK}/load")
    assert (loaded.status, "as soon as it is published" in loaded.body["message"]) == (200, True)
    kept = ask(api, "POST", f"/v2/repository/models/{TASK}/unload")
    assert (kept.status, "for as long as the store has it" in kept.body["error"]) == (422, True)
    other = ask(api, "POST", f"/v2/repository/models/{TASK}/load", body=b'{"parameters": {"config": "{}"}}')
    assert other.status == 400
    assert ask(api, "POST", "/v2/repository/models/acme/none/load").status == 404


def test_statistics_count_images_and_failures_of_each_version(predictor: Predictor, store: Store) -> None:
    counted = make_api(predictor, store, keys=False)
    given, raw = request_of("elements", [image(1), image(2)], counted)
    assert infer(counted, {"inputs": [given]}, raw).status == 200
    assert infer(counted, one(shape=[2])).status == 400
    assert ask(counted, "POST", f"/v1/predict/{TASK}:1", body=image(1)).status == 200
    rows = ask(counted, "GET", f"/v2/models/{TASK}/stats").body["model_stats"]
    assert [(row["version"], row["inference_count"], row["execution_count"]) for row in rows] == [
        ("1", 1, 1), ("2", 2, 1),
    ]  # fmt: skip
    assert rows[1]["inference_stats"]["fail"]["count"] == 1
    spent = {name: duration["ns"] for name, duration in rows[1]["inference_stats"].items()}
    assert all(0 < spent[name] <= spent["success"] for name in ("compute_infer", "compute_input"))
    assert ask(counted, "GET", f"/v2/models/{TASK}/versions/1/stats").body["model_stats"] == rows[:1]
    assert ask(counted, "GET", "/v2/models/stats").body["model_stats"] == rows


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v2/health/live", 200), ("HEAD", "/v2/health/live", 200), ("GET", "/v2/health/ready", 200),
    ("HEAD", "/v2/health/ready", 200), ("HEAD", "/healthz", 200), ("HEAD", "/readyz", 200),
    ("POST", "/v2/health/ready", 405), ("GET", f"/v2/models/{TASK}/infer", 405), ("DELETE", "/v2", 405),
    ("GET", "/v2/nothing", 404), ("GET", "/v2/models/", 404), ("GET", "/v2/models/none", 404),
    ("GET", "/v2/models/a b", 400), ("GET", f"/v2/models/{TASK}/versions/x", 400),
])  # fmt: skip
def test_routes_answer_their_methods(api: Any, method: str, path: str, status: int) -> None:
    assert ask(api, method, path).status == status
