from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import torch
from support.cli import call as command
from support.oracle import make_random_task, png
from support.servers import free_port, free_ports

from serving.benchmark.load import LoadRequest, run_load
from serving.client import Client
from serving.grpc.messages import message
from serving.port import check_port
from serving.runtime.predictor import Predictor
from serving.server import serve
from serving.telemetry_options import TelemetryOptions
from store.errors import PortTakenError, ServerError
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

pytestmark = pytest.mark.cluster
TASKS = ("flowers", "birds", "acme/cars")


@dataclass(frozen=True)
class Served:
    """A running server and the store behind it."""

    url: str
    store: Path
    grpc: str


def make_store(root: Path) -> Path:
    backbone = load_backbone(DEFAULT_BACKBONE)
    with Store.open(root / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for seed, task in enumerate(TASKS):
            made = make_random_task(backbone, root / str(seed), seed)
            store.publish(task, made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
    return root / "store"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A real Ray Serve over a store of three tasks, in float32."""
    store, (port, grpc_port) = make_store(tmp_path_factory.mktemp("served")), free_ports(2)
    telemetry = TelemetryOptions(log=store.parent / "requests.jsonl")
    with serve(store, port=port, grpc_port=grpc_port, dtype="float32", telemetry=telemetry):
        yield Served(f"http://127.0.0.1:{port}", store, f"127.0.0.1:{grpc_port}")


def image(seed: int) -> bytes:
    pixels = torch.randint(0, 256, (80, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return png(pixels)


def call(
    served: Served, path: str, body: bytes | None = None, *, method: str | None = None
) -> tuple[int, dict[str, object]]:
    """Send GET, or POST where there is a body, or what is asked for; return the status and the JSON."""
    request = urllib.request.Request(served.url + path, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_answers_over_http_equal_predict_in_process_for_every_image_of_a_mixed_stream(served):
    samples = [LoadRequest(TASKS[seed % 3], image(seed), "") for seed in range(48)]

    def ask(sample: LoadRequest) -> dict[str, object]:
        with Client(served.url) as client:
            return client.predict(sample.ref, sample.image, top=2, logits=True).to_dict(top=2, logits=True)

    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(ask, samples))
    with Store.open(served.store) as store, Predictor(store, dtype="float32") as predictor:
        for sample, answer in zip(samples, answers, strict=True):
            offline = predictor.predict(sample.ref, sample.image).to_dict(top=2, logits=True)
            assert answer["logits"] == pytest.approx(offline["logits"], abs=1e-4)
            assert [top["label"] for top in answer["top"]] == [top["label"] for top in offline["top"]]
            assert (answer["task"], answer["version"], answer["depth"]) == (
                offline["task"], offline["version"], offline["depth"],
            )  # fmt: skip


def test_over_grpc_every_connection_gets_the_answers_of_http(served):
    request = message("ModelInferRequest")(model_name="birds")
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(image(5))
    _, expected = call(served, "/v1/predict/birds?logits=true", image(5))
    for _ in range(8):  # each connection goes to one of the replicas
        with grpc.insecure_channel(served.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answer = message("ModelInferResponse").FromString(infer(request.SerializeToString(), timeout=60))
        logits = torch.frombuffer(bytearray(answer.raw_output_contents[0]), dtype=torch.float32)
        assert logits.tolist() == pytest.approx(expected["logits"], abs=1e-4)
    _, found = call(served, "/v2/models/birds/stats")
    assert found["model_stats"][0]["inference_count"] >= 9


def test_one_image_for_several_tasks_gets_the_answers_of_each_in_order_or_none_that_is_late(served):
    query = "&".join(f"ref={task}" for task in TASKS)
    status, together = call(served, f"/v1/predict?{query}&logits=true&timeout_ms=60000", image(3))
    assert status == 200
    for task, answer in zip(TASKS, together["answers"], strict=True):
        _, alone = call(served, f"/v1/predict/{task}?logits=true", image(3))
        assert answer["task"] == alone["task"] == task
        assert answer["logits"] == pytest.approx(alone["logits"], abs=1e-4)
    status, late = call(served, f"/v1/predict?{query}&timeout_ms=0.001", image(3))
    assert status == 503
    assert late["error"] in ("DeadlineError", "OverloadedError")  # the latter, where its way here took that long


def test_predict_asks_a_server_for_every_task_of_an_image_at_once(served, tmp_path):
    (tmp_path / "a.png").write_bytes(image(4))
    arguments = ["predict", TASKS[0], str(tmp_path / "a.png"), "--with", TASKS[1], "--with", TASKS[2], "--logits"]
    asked = command(*arguments, "--url", served.url, "--format", "json", store="no/store/here").json
    offline = command(*arguments, "--dtype", "float32", "--format", "json", store=served.store).json
    assert [answer["task"] for answer in asked] == list(TASKS)
    for answer, expected in zip(asked, offline, strict=True):
        assert answer["logits"] == pytest.approx(expected["logits"], abs=1e-4)
    refused = command(*arguments[:3], "--with", "nothing", "--url", served.url, store="no/store/here")
    assert refused.code == 1
    assert f"answered 404 for '{TASKS[0]}', 'nothing': no task 'nothing'" in " ".join(refused.err.split())


def test_whichever_replica_answers_the_statistics_are_of_all_and_each_request_is_one_line_of_the_log(served):
    def count() -> tuple[int, int]:
        with Client(served.url) as client:
            statistics = client.statistics()
        return statistics["requests"]["total"], statistics["replicas_missing"]

    before, _ = count()
    ids = [f"order-{number}" for number in range(24)]
    for number, one in enumerate(ids):
        request = urllib.request.Request(f"{served.url}/v1/predict/{TASKS[number % 3]}", image(number))
        request.add_header("X-Request-ID", one)
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.headers.get_all("X-Request-ID") == [one]
    assert [count() for _ in range(6)] == [(before + len(ids), 0)] * 6
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=60) as response:
        page = response.read().decode()
    counted = re.findall(r"^onetrunk_requests_total\{.*\} (\S+)$", page, re.MULTILINE)
    assert sum(map(float, counted)) == before + len(ids)
    end = time.monotonic() + 30
    while len(lines := logged(served, ids)) < len(ids) and time.monotonic() < end:
        time.sleep(0.05)
    assert sorted(line["request_id"] for line in lines) == sorted(ids)
    assert {(line["status"], line["task"] in TASKS, line["version"]) for line in lines} == {(200, True, 1)}
    done = command("which", ids[0], str(served.store.parent / "requests.jsonl"), "--format", "json", store=served.store)
    assert done.json[0]["versions"][0]["confirmed"]


def logged(served: Served, ids: list[str]) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (served.store.parent / "requests.jsonl").read_text().splitlines()]
    return [line for line in lines if line["request_id"] in ids]


def test_an_id_that_is_not_clean_is_replaced_before_any_log_has_it(served):
    for sent in ("a b", "x" * 65, 'quo"te', "semi;colon"):
        request = urllib.request.Request(f"{served.url}/v1/tasks", headers={"X-Request-ID": sent})
        with urllib.request.urlopen(request, timeout=60) as response:
            (got,) = response.headers.get_all("X-Request-ID")
        assert re.fullmatch("[0-9a-f-]{36}", got)


def test_a_client_that_hangs_up_leaves_the_server_answering_others(served):
    port = int(served.url.rpartition(":")[2])
    body = image(1)
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            head = f"POST /v1/predict?ref=flowers HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
    assert call(served, "/v1/predict?ref=flowers", body)[0] == 200


def test_the_load_driver_sends_each_sample_once_and_keeps_their_order(served):
    samples = [LoadRequest(TASKS[seed % 3], image(seed), "class 0") for seed in range(9)]
    outcome = run_load(served.url, samples, clients=3)
    assert [reply.request for reply in outcome.replies] == samples
    assert 0 < outcome.latency_s(0.5) <= outcome.latency_s(0.99) <= outcome.seconds
    assert 0 <= outcome.accuracy <= 1


def test_a_moved_alias_is_followed_within_a_second_and_a_version_keeps_its_answer(served, tmp_path):
    backbone = load_backbone(DEFAULT_BACKBONE)
    _, before = call(served, "/v1/predict/flowers:1?logits=true", image(0))
    made = make_random_task(backbone, tmp_path, seed=11)
    with Store.open(served.store) as store:
        store.publish("flowers", made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
    threading.Event().wait(1)
    assert call(served, "/v1/predict/flowers", image(0))[1]["version"] == 2
    assert call(served, "/v1/predict/flowers:1?logits=true", image(0))[1] == before


def bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize(
    ("path", "body", "status", "error", "remedy"),
    [
        ("/v1/predict/flowers", b"not an image", 400, "ImageError", "send a JPEG, PNG, WebP or BMP"),
        ("/v1/predict/flowers", bomb(), 400, "ImageError", "too large"),
        ("/v1/predict/flower", image(0), 404, "TaskNotFoundError", "did you mean 'flowers'"),
        ("/v1/predict/flowers@prod", image(0), 404, "VersionNotFoundError", "alias latest"),
        ("/v1/predict/flowers:99", image(0), 404, "VersionNotFoundError", "name one of these"),
        ("/v1/predict/..%2F..%2Fetc", image(0), 400, "InvalidNameError", "use letters, digits"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_its_status_and_one_line_with_the_remedy(
    served, path, body, status, error, remedy
):
    code, answer = call(served, path, body)
    assert (code, answer["error"]) == (status, error)
    assert remedy in answer["message"]
    assert "\n" not in answer["message"]


def test_the_server_lists_its_tasks_and_says_which_backbone_it_holds(served):
    tasks = call(served, "/v1/tasks")[1]["tasks"]
    assert {task["task"] for task in tasks} == set(TASKS)
    assert {"version", "aliases", "backbone", "depth", "blocks", "classes", "method", "nbytes"} <= tasks[0].keys()
    _, health = call(served, "/healthz")
    assert (health["status"], health["backbone"]) == ("ok", DEFAULT_BACKBONE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/aliases/flowers@prod?version=1"),
        ("DELETE", "/v1/tasks/flowers"),
        ("POST", "/v1/bundles/flowers"),
        ("POST", "/v1/keys?scope=admin"),
        ("GET", "/v1/keys"),
    ],
)
def test_where_no_keys_are_asked_for_nobody_changes_anything(served, method, path):
    status, answer = call(served, path, method=method)
    assert (status, answer["error"]) == (403, "NotAllowedError")
    assert "start the server with `keys=True`" in answer["message"]


def test_a_client_is_told_when_there_is_no_server_or_the_server_refuses(served):
    with pytest.raises(ServerError, match=r"start it with `serve\(store_url\)`"):
        Client(f"http://127.0.0.1:{free_port()}").predict("flowers", b"")
    with pytest.raises(ServerError, match=r"answered 404 for 'nothing': no task 'nothing'"):
        Client(served.url).predict("nothing", image(0))
    with pytest.raises(ServerError, match="write http://HOST:PORT"):
        Client("localhost:8265")


def test_a_port_that_is_taken_is_refused_before_anything_is_started(served):
    port = int(served.url.rpartition(":")[2])
    with pytest.raises(PortTakenError, match=rf"127.0.0.1:{port} .* choose another with `port=`"):
        check_port("127.0.0.1", port)
