"""The Open Inference Protocol over gRPC, spoken by hand: who may ask, what is bounded, and what a failure is called."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from support.asgi_calls import ask
from support.oracle import png
from support.random_store import random_store

from serving.grpc.messages import message
from serving.grpc.server import grpc_server
from serving.http.api import make_api
from serving.http.limits import HttpLimits
from serving.runtime.predictor import Predictor
from store.registry.store import Store
from store.registry.tenant_store import new_key

SERVICE = "/inference.GRPCInferenceService/"
IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))
TASK = "acme/cars"
IN_TURN = (("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),)
"""The option of a channel by which docs/protocols.md lets a client ask all nodes in turn."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with random_store(tmp_path_factory.mktemp("grpc"), (TASK, 2)) as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor(store: Store) -> Iterator[Predictor]:
    with Predictor(store, dtype="float32") as predictor:
        yield predictor


@asynccontextmanager
async def channel_to(api: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc_server(api.state.app_state, address="127.0.0.1:0")
    async with server as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


def talk(api: Any, converse: Callable[[grpc.aio.Channel], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with channel_to(api) as channel:
            return await converse(channel)

    return asyncio.run(run())


def call(api: Any, method: str, content: bytes = b"", *, secret: str | None = None, **given: Any) -> Any:
    """Return the answer's bytes, or the error that the call ended with."""
    metadata = () if secret is None else (("authorization", f"Bearer {secret}"),)

    async def converse(channel: grpc.aio.Channel) -> Any:
        try:
            return await channel.unary_unary(method)(content, metadata=metadata, **{"timeout": 60, **given})
        except grpc.aio.AioRpcError as error:
            return error

    return talk(api, converse)


def infer_request(image: bytes = IMAGE, **fields: Any) -> bytes:
    request = message("ModelInferRequest")(**{"model_name": TASK, **fields})
    request.inputs.add(name="image", datatype="BYTES", shape=[1]).contents.bytes_contents.append(image)
    content: bytes = request.SerializeToString()
    return content


def read(name: str, content: bytes) -> Any:
    return message(name).FromString(content)


@pytest.fixture(scope="module")
def api(predictor: Predictor, store: Store) -> Any:
    return make_api(predictor, store, keys=False)


def test_an_image_gets_the_answer_of_the_rest_route(api: Any) -> None:
    answer = read("ModelInferResponse", call(api, f"{SERVICE}ModelInfer", infer_request(id="7")))
    expected = ask(api, "POST", f"/v1/predict/{TASK}?logits=1", body=IMAGE).body
    logits = torch.frombuffer(bytearray(answer.raw_output_contents[0]), dtype=torch.float32).tolist()
    assert logits == pytest.approx(expected["logits"], abs=1e-5)
    assert (answer.id, answer.model_version, list(answer.outputs[0].shape)) == ("7", "1", [1, 3])
    assert answer.parameters[0].value.int64_param == expected["depth"] == 2


@pytest.mark.parametrize(("name", "datatype", "field", "shape", "values"), [
    ("pixels", "UINT8", "uint_contents", [1, 2, 2, 3], [7] * 12),
    ("normalised", "FP32", "fp32_contents", None, None),
])  # fmt: skip
def test_values_may_be_in_the_message_itself(
    api: Any, predictor: Predictor, name: str, datatype: str, field: str, shape: Any, values: Any
) -> None:
    p = predictor.records[0].id.preprocessing
    shape = shape or [1, 3, p.height, p.width]
    request = message("ModelInferRequest")(model_name=TASK)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(values or [0.5] * (3 * p.height * p.width))
    answer = read("ModelInferResponse", call(api, f"{SERVICE}ModelInfer", request.SerializeToString()))
    assert len(answer.raw_output_contents) == 3


@pytest.mark.parametrize(("content", "code", "words"), [
    (b"\xff\xff", "INVALID_ARGUMENT", "the message is not a valid ModelInferRequest"),
    (infer_request(b"text"), "INVALID_ARGUMENT", "4 bytes beginning"),
    (infer_request(model_name="acme/none"), "NOT_FOUND", "no task"),
    (infer_request(model_name="a b"), "INVALID_ARGUMENT", "is not valid"),
    (infer_request(model_version="9"), "NOT_FOUND", "9"),
    (infer_request(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT", "2 raw_input_contents for 1 inputs"),
])  # fmt: skip
def test_what_cannot_be_answered_is_called_by_its_code_in_one_line(
    api: Any, content: bytes, code: str, words: str
) -> None:
    error = call(api, f"{SERVICE}ModelInfer", content)
    assert (error.code().name, words in error.details(), "\n" in error.details()) == (code, True, False)


def test_the_key_is_asked_for_before_the_message_is_read(predictor: Predictor, store: Store) -> None:
    guarded = make_api(predictor, store, keys=True)
    key, secret = new_key("acme", ("read",))
    store.put_key(key)
    for wrong in (None, "ot_wrong"):
        assert call(guarded, f"{SERVICE}ModelInfer", b"", secret=wrong).code().name == "UNAUTHENTICATED"
        assert call(guarded, f"{SERVICE}RepositoryIndex", b"", secret=wrong).code().name == "UNAUTHENTICATED"
    assert isinstance(call(guarded, f"{SERVICE}ModelInfer", infer_request(), secret=secret), bytes)

    async def never_send(channel: grpc.aio.Channel) -> Any:
        stream = channel.stream_unary(f"{SERVICE}ModelInfer")(timeout=60)
        return await stream.code()

    assert talk(guarded, never_send).name == "UNAUTHENTICATED"


def test_health_needs_no_key_and_platforms_may_ask_for_it_in_grpcs_own_way(predictor: Predictor, store: Store) -> None:
    guarded = make_api(predictor, store, keys=True)
    assert read("ServerLiveResponse", call(guarded, f"{SERVICE}ServerLive")).live
    assert read("ServerReadyResponse", call(guarded, f"{SERVICE}ServerReady")).ready
    assert read("HealthCheckResponse", call(guarded, "/grpc.health.v1.Health/Check")).status == 1


def test_a_method_that_is_not_there_is_unimplemented(api: Any) -> None:
    assert call(api, f"{SERVICE}ModelConfig").code().name == "UNIMPLEMENTED"


def test_messages_are_bounded_in_bytes_and_in_time_and_compressed_ones_are_refused(
    predictor: Predictor, store: Store
) -> None:
    bounded = make_api(predictor, store, keys=False, limits=HttpLimits(image_nbytes=1 << 16, body_s=0.2))
    large = infer_request(bytes(1 << 18))
    assert call(bounded, f"{SERVICE}ModelInfer", large).code().name == "RESOURCE_EXHAUSTED"
    packed = call(bounded, f"{SERVICE}ModelInfer", infer_request(), compression=grpc.Compression.Gzip)
    assert packed.code().name == "UNIMPLEMENTED"

    async def never_send(channel: grpc.aio.Channel) -> Any:
        return await channel.stream_unary(f"{SERVICE}ModelInfer")(timeout=60).code()

    assert talk(bounded, never_send).name == "DEADLINE_EXCEEDED"


def test_a_refusal_for_now_says_when_to_try_again(predictor: Predictor, store: Store) -> None:
    limited = make_api(predictor, store, keys=False, limits=HttpLimits(rate_limit=0.01))

    async def ask_until_refused(channel: grpc.aio.Channel) -> Any:
        infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        for _ in range(5):
            try:
                await infer(infer_request(), timeout=60)
            except grpc.aio.AioRpcError as error:
                return error
        return None

    error = talk(limited, ask_until_refused)
    told = dict(error.trailing_metadata())
    assert error.code().name == "RESOURCE_EXHAUSTED"
    assert int(told["grpc-retry-pushback-ms"]) == 1000 * int(told["retry-after"]) > 0


@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_a_client_that_leaves_is_waited_for_no_longer(
    predictor: Predictor, store: Store, leave: str, sends: bool
) -> None:
    slow = png(torch.zeros(3000, 3000, 3, dtype=torch.uint8))
    request = message("ModelInferRequest")(model_name=TASK)
    request.inputs.add(name="image", datatype="BYTES", shape=[64]).contents.bytes_contents.extend([slow] * 64)
    api = make_api(predictor, store, keys=False)
    counters = api.state.app_state.recorder.counters

    async def converse(channel: grpc.aio.Channel) -> None:
        sent = asyncio.Event()

        async def messages() -> AsyncIterator[bytes]:
            sent.set()
            if not sends:
                await asyncio.sleep(60)
            yield request.SerializeToString()

        stream = channel.stream_unary(f"{SERVICE}ModelInfer")(messages(), timeout=0.3 if leave == "deadline" else 60)
        await sent.wait()
        await asyncio.sleep(0.1)
        if leave == "cancel":
            stream.cancel()
        end = time.monotonic() + 30
        while counters.finished == 0:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    talk(api, converse)
    ((route, tenant, status),) = counters.requests
    assert (route, tenant) == ("predict", "(anyone)")
    # Where the deadline is over, who notices it first, the server or the channel, says so.
    assert status == 499 or (leave, status) == ("deadline", 503)
    while predictor.state().decoding:
        time.sleep(0.01)


def test_a_stream_answers_each_message_in_turn(api: Any) -> None:
    async def converse(channel: grpc.aio.Channel) -> list[str]:
        stream = channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        answers = stream(iter([infer_request(id=str(number)) for number in range(3)]), timeout=60)
        return [read("ModelStreamInferResponse", each).infer_response.id async for each in answers]

    assert talk(api, converse) == ["0", "1", "2"]


def test_one_channels_calls_reach_every_replica_as_its_connections_age_and_none_fails(
    predictor: Predictor, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.grpc.server.AGE_MS", 100)
    apis = [make_api(predictor, store, keys=False) for _ in range(2)]

    def answered() -> list[int]:
        return [api.state.app_state.recorder.counters.finished for api in apis]

    async def converse() -> int:
        first, second = (api.state.app_state for api in apis)
        async with grpc_server(first, address="127.0.0.1:0") as port:
            address = f"127.0.0.1:{port}"
            async with grpc_server(second, address=address), grpc.aio.insecure_channel(address) as channel:
                sent, end = 0, time.monotonic() + 60
                while 0 in answered() or sent < 100:
                    assert time.monotonic() < end, answered()
                    await channel.unary_unary(f"{SERVICE}ModelInfer")(infer_request(), timeout=60)
                    sent += 1
                return sent

    sent = asyncio.run(converse())
    for api in apis:
        api.state.app_state.recorder.settle()
    assert sum(answered()) == sent


def test_a_channel_with_the_documented_option_asks_all_nodes_in_turn(predictor: Predictor, store: Store) -> None:
    ((_, option),) = IN_TURN
    assert f"'{option}'" in (Path(__file__).parents[4] / "docs" / "protocols.md").read_text("utf-8")
    apis = [make_api(predictor, store, keys=False) for _ in range(2)]

    async def converse() -> None:
        first, second = (grpc_server(api.state.app_state, address="127.0.0.1:0") for api in apis)
        async with first as one, second as other:
            target = f"ipv4:127.0.0.1:{one},127.0.0.1:{other}"
            async with grpc.aio.insecure_channel(target, options=IN_TURN) as channel:
                for _ in range(40):
                    await channel.unary_unary(f"{SERVICE}ModelInfer")(infer_request(), timeout=60)

    asyncio.run(converse())
    for api in apis:
        recorder = api.state.app_state.recorder
        recorder.settle()
        assert recorder.counters.finished >= 15  # the second connection may be ready some calls later
