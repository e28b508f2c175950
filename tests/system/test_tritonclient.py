"""Triton's stock clients, over HTTP and over gRPC: they get what the REST routes answer, and errors in words.

They need an older protobuf than Ray, so `make triton` runs these tests in an environment of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.oracle import make_backbone, make_task
from support.processes import importing
from support.server_process import started
from support.servers import free_ports
from support.triton import COUNT, OTHER, TASK, Peer, Served, ServerError, check, connect, image, pixels, until

from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("triton")
    backbone = make_backbone(folder / "backbone")
    secrets = {}
    with Store.open(folder / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for name, depth in ((TASK, 2), (TASK, 3), (OTHER, 1)):
            made = make_task(backbone, folder / str(depth), depth=depth, classes=5, seed=depth)
            store.publish(name, made.folder, backbone=backbone.record.name, depth=depth)
        for tenant in ("acme", "globex"):
            key, secrets[tenant] = new_key(tenant, ("read",))
            store.put_key(key)
    http, grpc = free_ports(2)
    command = [sys.executable, "-m", "support.plain_server", str(folder / "store"), str(http), "--keys"]
    with started([*command, "--grpc-port", str(grpc)], http, env=importing()):
        yield Served(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", secrets)


@pytest.fixture(scope="module", params=["http", "grpc"])
def peer(served: Served, request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = connect(served, request.param, served.secrets["acme"])
    yield made
    made.client.close()


def test_the_server_lives_and_is_ready(peer: Peer) -> None:
    assert peer.client.is_server_live()
    assert peer.client.is_server_ready()


def test_the_server_names_itself_and_its_extensions(peer: Peer) -> None:
    found = peer.call("get_server_metadata")
    assert found["name"] == "onetrunk"
    assert {"classification", "binary_tensor_data", "model_repository", "statistics"} <= set(found["extensions"])


@pytest.mark.parametrize(("name", "version", "is_ready"), [
    (TASK, "", True), (TASK, "1", True), (TASK, "9", False), ("acme/none", "", False), (OTHER, "", False),
])  # fmt: skip
def test_a_task_is_ready_where_the_caller_may_ask_for_it(peer: Peer, name: str, version: str, is_ready: bool) -> None:
    assert peer.call("is_model_ready", name, version) is is_ready


def test_a_task_is_described(peer: Peer) -> None:
    found = peer.call("get_model_metadata", TASK)
    assert (found["name"], found["versions"], found["platform"]) == (TASK, ["1", "2"], "onetrunk")
    assert [tensor["datatype"] for tensor in found["inputs"]] == ["BYTES", "UINT8", "FP32"]
    assert [tensor["name"] for tensor in found["outputs"]] == ["logits", "scores", "label"]
    assert [int(size) for size in found["outputs"][0]["shape"]] == [-1, 5]


@pytest.mark.parametrize("seed", range(COUNT))
def test_an_encoded_image_gets_the_answer_of_the_rest_route(served: Served, peer: Peer, seed: int) -> None:
    data = image(seed, 20 + 5 * seed)
    check(peer.infer(peer.images([data])), [served.rest(data)])


@pytest.mark.parametrize("count", [2, 7, 64])
def test_many_images_are_one_request(served: Served, peer: Peer, count: int) -> None:
    images = [image(seed) for seed in range(count)]
    check(peer.infer(peer.images(images)), [served.rest(each) for each in images])


@pytest.mark.parametrize("size", [16, 32, 301])
def test_pixels_are_resized_as_images_are(served: Served, peer: Peer, size: int) -> None:
    given = peer.tensor("pixels", "UINT8", np.stack([pixels(seed, size) for seed in range(2)]))
    check(peer.infer(given), [served.rest(image(seed, size)) for seed in range(2)])


def test_a_normalised_tensor_goes_to_the_backbone_as_it_is(peer: Peer) -> None:
    shape = [int(size) for size in peer.call("get_model_metadata", TASK)["inputs"][2]["shape"]][1:]
    values = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    together = peer.infer(peer.tensor("normalised", "FP32", values)).as_numpy("logits")
    alone = [peer.infer(peer.tensor("normalised", "FP32", each[None])).as_numpy("logits")[0] for each in values]
    assert together == pytest.approx(np.stack(alone), abs=1e-4)


@pytest.mark.parametrize(("name", "version", "expected"), [(TASK, "1", 1), (TASK, "", 2), (f"{TASK}@latest", "", 2)])
def test_a_version_is_named_beside_the_task(served: Served, peer: Peer, name: str, version: str, expected: int) -> None:
    result = peer.infer(peer.images([image(1)]), name, model_version=version, request_id="a-request")
    response = result.get_response() if peer.kind == "http" else result.get_response(as_json=True)
    assert (response["model_version"], response["id"]) == (str(expected), "a-request")
    check(result, [served.rest(image(1), f"{TASK}:{expected}")])


@pytest.mark.parametrize("classes", [1, 3, 50])
@pytest.mark.parametrize("output", ["scores", "logits"])
def test_the_classification_extension(served: Served, peer: Peer, output: str, classes: int) -> None:
    asked = [peer.module.InferRequestedOutput(output, class_count=classes)]
    found = peer.infer(peer.images([image(1), image(2)]), outputs=asked).as_numpy(output)
    expected = [served.rest(image(seed))["top"][:classes] for seed in (1, 2)]
    assert found.shape == (2, min(classes, 5))
    assert [[text.decode().split(":", 2)[2] for text in row] for row in found] == [
        [top["label"] for top in row] for row in expected
    ]
    if output == "scores":
        scores = [[float(text.decode().split(":")[0]) for text in row] for row in found]
        assert scores == [pytest.approx([top["score"] for top in row], abs=1e-5) for row in expected]


def test_only_the_outputs_that_are_asked_for_come(peer: Peer) -> None:
    result = peer.infer(peer.images([image(1)]), outputs=[peer.module.InferRequestedOutput("label")])
    assert result.as_numpy("label").shape == (1,)
    assert result.as_numpy("logits") is None


def broken(peer: Peer, what: str) -> Any:
    return {
        "no image": lambda: peer.images([b"no image"]),
        "one of two": lambda: peer.images([image(1), b"no image"]),
        "65 images": lambda: peer.images([image(1)] * 65),
        "wrong name": lambda: peer.tensor("picture", "BYTES", np.array([b""], dtype=object)),
        "wrong type": lambda: peer.tensor("normalised", "FP64", np.zeros((1, 3, 2, 2))),
        "wrong size": lambda: peer.tensor("normalised", "FP32", np.zeros((1, 3, 2, 2), np.float32)),
        "not a number": lambda: peer.tensor("pixels", "UINT8", np.zeros((1, 2, 2, 4), np.uint8)),
    }[what]()


@pytest.mark.parametrize(("what", "message"), [
    ("no image", "8 bytes beginning"), ("one of two", r"images\[1\]"), ("65 images", "more than 64 images"),
    ("wrong name", "is not an input of a task"), ("wrong type", "is not an input of a task"),
    ("wrong size", "give .*3"), ("not a number", "height, width, 3"),
])  # fmt: skip
def test_what_is_no_image_is_refused_in_words(peer: Peer, what: str, message: str) -> None:
    with pytest.raises(ServerError, match=message) as caught:
        peer.infer(broken(peer, what))
    assert "\n" not in caught.value.message()


@pytest.mark.parametrize(("name", "message"), [("acme/nothing", "no task"), (OTHER, "among those of this key")])
def test_a_task_that_the_caller_may_not_see_is_unknown(peer: Peer, name: str, message: str) -> None:
    with pytest.raises(ServerError, match=message) as caught:
        peer.infer(peer.images([image(1)]), name)
    assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("secret", ["", "ot_wrong"])
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_without_a_key_nothing_but_health_is_answered(served: Served, kind: str, secret: str) -> None:
    stranger = connect(served, kind, secret)
    assert stranger.client.is_server_ready()
    calls = [lambda: stranger.infer(stranger.images([image(1)])), lambda: stranger.call("get_server_metadata")]
    for call in calls:
        with pytest.raises(ServerError, match="API key") as caught:
            call()
        assert caught.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
    stranger.client.close()


def test_the_repository_lists_what_the_caller_may_see(peer: Peer) -> None:
    found = peer.call("get_model_repository_index")
    rows = found if peer.kind == "http" else found["models"]
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [(TASK, "2", "READY")]


def test_load_and_unload_say_what_they_mean_here(peer: Peer) -> None:
    peer.call("load_model", TASK)
    with pytest.raises(ServerError, match="for as long as the store has it"):
        peer.call("unload_model", TASK)
    with pytest.raises(ServerError, match="served as it was published"):
        peer.call("load_model", TASK, config="{}")


def test_statistics_tell_of_each_version(peer: Peer) -> None:
    peer.infer(peer.images([image(1), image(2)]), model_version="1")
    (before,) = peer.call("get_inference_statistics", TASK, "1")["model_stats"]
    peer.infer(peer.images([image(1), image(2)]), model_version="1")
    (after,) = peer.call("get_inference_statistics", TASK, "1")["model_stats"]
    assert int(after["inference_count"]) - int(before["inference_count"]) == 2
    assert int(after["inference_stats"]["success"]["ns"]) > int(before["inference_stats"]["success"]["ns"])


@pytest.mark.parametrize(("timeout", "message"), [(1, "timeout_ms|deadline|Deadline"), (60_000_000, None)])
def test_a_timeout_in_microseconds_is_the_deadline(served: Served, peer: Peer, timeout: int, message: str) -> None:
    if message is None:
        check(peer.infer(peer.images([image(1)]), timeout=timeout), [served.rest(image(1))])
        return
    with pytest.raises(ServerError, match=message):
        peer.infer(peer.images([image(1)]), timeout=timeout)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_understood_over_http(served: Served, algorithm: str) -> None:
    peer = connect(served, "http", served.secrets["acme"])
    data = image(1)
    check(peer.infer(peer.images([data]), request_compression_algorithm=algorithm), [served.rest(data)])


def test_over_grpc_compression_is_refused_in_words(served: Served) -> None:
    peer = connect(served, "grpc", served.secrets["acme"])
    with pytest.raises(ServerError, match=r"(?i)compress"):
        peer.infer(peer.images([image(1)]), compression_algorithm="gzip")


def test_requests_may_go_on_side_by_side(served: Served, peer: Peer) -> None:
    expected = [served.rest(image(seed)) for seed in range(COUNT)]
    if peer.kind == "http":
        waiting = [peer.client.async_infer(TASK, [peer.images([image(s)])], headers=peer.headers) for s in range(COUNT)]
        results = [each.get_result() for each in waiting]
    else:
        found: dict[int, Any] = {}

        def note(index: int) -> Any:
            return lambda result, error: found.update({index: error or result})

        for seed in range(COUNT):
            peer.client.async_infer(TASK, [peer.images([image(seed)])], note(seed), headers=peer.headers)
        until(lambda: len(found) == COUNT)
        results = [found[seed] for seed in range(COUNT)]
    for result, each in zip(results, expected, strict=True):
        check(result, [each])


def test_a_stream_answers_each_image_in_turn(served: Served) -> None:
    peer = connect(served, "grpc", served.secrets["acme"])
    found: list[Any] = []
    peer.client.start_stream(lambda result, error: found.append(error or result), headers=peer.headers)
    for seed in range(COUNT):
        peer.client.async_stream_infer(TASK, [peer.images([image(seed)])])
    until(lambda: len(found) == COUNT)
    peer.client.stop_stream()
    for seed, result in enumerate(found):
        check(result, [served.rest(image(seed))])
