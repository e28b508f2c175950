"""The Open Inference Protocol v2 over HTTP, straight from ASGI: the checks, bounds and errors of `/v1/predict`."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope

from serving.http.admission import admit
from serving.http.auth import AppState
from serving.http.bodies import read_body
from serving.http.encodings import expand
from serving.http.errors import RETRY_S, TransferError, json_response, note_problem, too_large
from serving.http.headers import RequestHeaders
from serving.http.health import Health
from serving.http.oip_service import LARGE_NBYTES, OipService, ref_of, server_metadata
from serving.oip.inference import Inference
from serving.oip.json_format import parse_inference, write_answer
from serving.telemetry.paths import OIP_HEALTH
from serving.telemetry.request_record import RequestRecord
from store.errors import FormatError
from store.registry.tenant_store import TenantStore

PREFIX = "/v2"
JSON_LENGTH = "Inference-Header-Content-Length"
MODEL = re.compile(r"/v2/models/(?P<name>.+?)(/versions/(?P<version>[^/]*))?(/(?P<verb>infer|ready|stats))?")
REPOSITORY = re.compile(r"/v2/repository/models/(?P<name>.+)/(?P<verb>load|unload)")
MOST_COMMAND_NBYTES = 64 << 10
Caller = TenantStore


def is_oip(path: str) -> bool:
    return path == PREFIX or path.startswith(PREFIX + "/")


class OipRoutes:
    """Answer `/v2` and what is below it; docs/protocols.md says how."""

    def __init__(self, state: AppState, health: Health) -> None:
        self._state, self._health = state, health
        self._service = OipService(state)
        self._command_limits = dataclasses.replace(state.limits, image_nbytes=MOST_COMMAND_NBYTES)

    async def answer(self, scope: Scope, receive: Receive, path: str, record: RequestRecord) -> Response:
        """Answer, or raise an error; `record.caller` is who may see it."""
        if (answer := self._answer_health(scope, path)) is not None:
            return answer
        headers = RequestHeaders.read(scope)
        record.caller = caller = await self._state.caller(headers.all, headers.client)
        if (found := REPOSITORY.fullmatch(path)) is not None:
            check_method(scope, "POST")
            given = await self._read_command(receive, headers, caller)
            if found["verb"] == "load":
                return json_response({"message": await self._service.load(caller, found["name"], given)})
            return json_response({"message": await self._service.unload(caller, found["name"])})
        if (fixed := self._fixed(path)) is not None:
            method, make = fixed
            check_method(scope, method)
            if method == "POST":
                await self._read_command(receive, headers, caller)
            return json_response(await make(caller))
        if (found := MODEL.fullmatch(path)) is None:
            raise TransferError(404, "Not Found", f"{scope['method']} {path[:200]!r} is not a route of this protocol")
        name, version, verb = found["name"], found["version"] or "", found["verb"]
        check_method(scope, "POST" if verb == "infer" else "GET")
        if verb == "infer":
            return await self._infer(name, version, headers, receive, record)
        return await self._describe(caller, name, version, verb)

    def _answer_health(self, scope: Scope, path: str) -> Response | None:
        """Answer without a key, as the probes of a platform ask."""
        if path not in OIP_HEALTH:
            return None
        check_method(scope, "GET")
        if path.endswith("live"):
            return json_response({"live": True})
        status, content = self._health.ready()
        return json_response({"ready": status == 200, **content}, status, retry(status))

    def _fixed(self, path: str) -> tuple[str, Callable[[Caller], Awaitable[object]]] | None:
        async def metadata(caller: Caller) -> object:
            caller.check("read")
            return server_metadata()

        async def statistics(caller: Caller) -> object:
            return {"model_stats": await self._service.statistics(caller, "", "")}

        return {
            "/v2": ("GET", metadata),
            "/v2/": ("GET", metadata),
            "/v2/models/stats": ("GET", statistics),
            "/v2/repository/index": ("POST", self._service.index),
        }.get(path)

    async def _describe(self, caller: Caller, name: str, version: str, verb: str | None) -> Response:
        if verb == "stats":
            return json_response({"model_stats": await self._service.statistics(caller, name, version)})
        if verb == "ready":
            found = await self._service.version(caller, name, version)
            status, _ = self._health.ready()
            return json_response(
                {"name": name, "version": str(found.number), "ready": status == 200}, status, retry(status)
            )
        return json_response((await self._service.model_metadata(caller, name, version)).to_dict())

    async def _infer(
        self, name: str, number: str, headers: RequestHeaders, receive: Receive, record: RequestRecord
    ) -> Response:
        state, caller = self._state, record.caller
        assert caller is not None, "the caller is known"
        await admit(state, caller, record, [ref_of(name, number)])
        with state.bodies.held(caller.key.id) as held:
            body = await read_body(receive, headers.length, held, state.limits)
            record.received = len(body)
            body = await expand(body, headers.encoding, held, state.limits)
            inference = await self._parse(body, headers)
            answer = await self._service.infer(inference, record, held, receive)
        content, head_nbytes = write_answer(answer, name)
        if head_nbytes is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={JSON_LENGTH: str(head_nbytes)}, media_type="application/octet-stream")

    async def _parse(self, body: bytes, headers: RequestHeaders) -> Inference:
        given = headers.all.get(JSON_LENGTH.lower().encode())
        if given is not None and not (given.isdigit() and len(given) < 20 and int(given) <= len(body)):
            raise FormatError(f"{JSON_LENGTH} {given[:40]!r}: give the bytes of JSON, at most the body's {len(body):,}")
        head_nbytes = None if given is None else int(given)
        if (nbytes := len(body) if head_nbytes is None else head_nbytes) > self._state.limits.json_nbytes:
            most = self._state.limits.json_nbytes
            raise too_large(f"the JSON takes {nbytes:,} bytes, {most:,} are the most: send tensors as binary data")
        if nbytes <= LARGE_NBYTES:
            return parse_inference(body, head_nbytes)
        return await run_in_threadpool(parse_inference, body, head_nbytes)

    async def _read_command(self, receive: Receive, headers: RequestHeaders, caller: Caller) -> object:
        """Return the parameters of a request about the repository."""
        with self._state.bodies.held(caller.key.id) as held:
            body = await read_body(receive, headers.length, held, self._command_limits)
            body = await expand(body, headers.encoding, held, self._command_limits)
        try:
            given = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise FormatError("the body is not a JSON object: send one, or none")
        parameters = given.get("parameters") or {}
        return {n: v for n, v in parameters.items() if n != "unload_dependents"} if isinstance(parameters, dict) else 1


def retry(status: int) -> dict[str, str]:
    return {} if status == 200 else {"retry-after": RETRY_S}


def check_method(scope: Scope, allowed: str) -> None:
    """Raise where the route has another method; HEAD goes where GET goes."""
    if scope["method"] != allowed and not (scope["method"] == "HEAD" and allowed == "GET"):
        message = f"{scope['method']} is not the method of this route: send {allowed}"
        allow = "GET, HEAD" if allowed == "GET" else allowed
        raise TransferError(405, HTTPStatus(405).phrase, message, allow=allow)


def answer_oip_error(error: Exception, record: RequestRecord) -> Response:
    """Answer an error as the protocol has it: `error` is the line that says what is wrong."""
    problem = note_problem(error, record)
    challenge = {"www-authenticate": "Bearer"} if problem.status == 401 else {}
    content = {"error": problem.message, "kind": problem.kind}
    return json_response(content, problem.status, {**challenge, **problem.headers})
