"""The methods of `inference.GRPCInferenceService`, and gRPC's own health check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool

from serving.grpc.calls import Call, Calls, Context, Method
from serving.grpc.conversion import INFER_RESPONSE, parameters_of, read_inference, write_answer, write_statistics
from serving.grpc.messages import message
from serving.http.admission import check_rate_and_room, choose
from serving.http.auth import AppState
from serving.http.health import Health
from serving.http.oip_service import LARGE_NBYTES, OipService, ref_of, server_metadata
from serving.telemetry.paths import GRPC
from store.errors import FormatError, NotFoundError

HEALTH = "/grpc.health.v1.Health/Check"
OPEN = (f"{GRPC}ServerLive", f"{GRPC}ServerReady", HEALTH)
"""What platforms ask without a key."""
SERVING, NOT_SERVING = 1, 2


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no annotations
    """Finds the method of a call; every one is read as a stream, so that the key is checked before its message."""

    def __init__(self, state: AppState) -> None:
        self._state, self._calls, self._service = state, Calls(state), OipService(state)
        self._health = Health(state.predictor, keys=state.api_keys is not None)
        self.methods: dict[str, Method] = {
            f"{GRPC}{name}": method
            for name, method in {
                "ServerMetadata": self.server_metadata,
                "ModelReady": self.model_ready,
                "ModelMetadata": self.model_metadata,
                "ModelInfer": self.model_infer,
                "ModelStatistics": self.model_statistics,
                "RepositoryIndex": self.repository_index,
                "RepositoryModelLoad": self.load,
                "RepositoryModelUnload": self.unload,
            }.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        path: str = details.method
        if path in OPEN:
            return grpc.stream_unary_rpc_method_handler(partial(self._answer_health, path))
        if path == f"{GRPC}ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)
        method = self.methods.get(path)
        if method is None:
            return None
        return grpc.stream_unary_rpc_method_handler(partial(self._calls.answer, path, method))

    async def server_metadata(self, call: Call) -> Any:
        await call.read()
        call.caller.check("read")
        return message("ServerMetadataResponse")(**server_metadata())

    async def model_ready(self, call: Call) -> Any:
        request = await read(call, "ModelReadyRequest")
        try:
            await self._service.version(call.caller, request.name, request.version)
        except NotFoundError:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=self._health.ready()[0] == 200)

    async def model_metadata(self, call: Call) -> Any:
        request = await read(call, "ModelMetadataRequest")
        found = await self._service.model_metadata(call.caller, request.name, request.version)
        response = message("ModelMetadataResponse")(**{k: v for k, v in found.to_dict().items() if k[-3:] != "uts"})
        for tensors, added in ((found.inputs, response.inputs), (found.outputs, response.outputs)):
            for tensor in tensors:
                added.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return response

    async def model_infer(self, call: Call) -> Any:
        check_rate_and_room(self._state, call.caller)
        request = await read(call, "ModelInferRequest")
        ref = ref_of(request.model_name, request.model_version)
        call.caller.check("read", ref)
        await choose(self._state, call.record, [ref])
        inference = read_inference(request)
        left_s = None if call.deadline is None else call.deadline - time.monotonic()
        timeout_s = min((each for each in (inference.timeout_s, left_s) if each is not None), default=None)
        given = replace(inference, timeout_s=timeout_s)
        answer = await self._service.infer(given, call.record, call.held, never)
        return write_answer(answer, request.model_name)

    async def model_statistics(self, call: Call) -> Any:
        request = await read(call, "ModelStatisticsRequest")
        return write_statistics(await self._service.statistics(call.caller, request.name, request.version))

    async def repository_index(self, call: Call) -> Any:
        await call.read()
        response = message("RepositoryIndexResponse")()
        for row in await self._service.index(call.caller):
            response.models.add(**row)
        return response

    async def load(self, call: Call) -> Any:
        request = await read(call, "RepositoryModelLoadRequest")
        await self._service.load(call.caller, request.model_name, parameters_of(request.parameters))
        return message("RepositoryModelLoadResponse")()

    async def unload(self, call: Call) -> Any:
        request = await read(call, "RepositoryModelUnloadRequest")
        await self._service.unload(call.caller, request.model_name)

    async def _answer_health(self, path: str, messages: AsyncIterator[bytes], _context: Context) -> bytes:
        async for _ in messages:
            break
        ready = self._health.ready()[0] == 200
        if path == HEALTH:
            response = message("HealthCheckResponse")(status=SERVING if ready else NOT_SERVING)
        elif path.endswith("Live"):
            response = message("ServerLiveResponse")(live=True)
        else:
            response = message("ServerReadyResponse")(ready=ready)
        content: bytes = response.SerializeToString()
        return content

    async def _stream(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer each message in turn; the first that cannot be answered ends the stream."""
        with await self._calls.open_stream(f"{GRPC}ModelStreamInfer", context):
            async for content in messages:
                answer = await self._calls.answer(f"{GRPC}ModelInfer", self.model_infer, once(content), context)
                response = message("ModelStreamInferResponse")()
                response.infer_response.CopyFrom(INFER_RESPONSE.FromString(answer))
                yield response.SerializeToString()


async def read(call: Call, name: str) -> Any:
    """Read the message of a call, where it is one of this name."""
    content = await call.read()
    parse = message(name).FromString
    try:
        return parse(content) if len(content) <= LARGE_NBYTES else await run_in_threadpool(parse, content)
    except DecodeError:
        raise FormatError(f"the message is not a valid {name}: send one of the Open Inference Protocol") from None


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def never() -> dict[str, Any]:
    """Wait for ever: a client that goes away cancels its call."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}
