"""Versions in and out over HTTP, as bundles that are never in memory as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from serving.http.auth import Caller, app_state
from serving.http.bodies import receive_bundle
from serving.http.headers import RequestHeaders

CHUNK_NBYTES = 1 << 20

routes = APIRouter()


@routes.post("/v1/bundles/{task:path}")
async def publish_bundle(task: str, request: Request, caller: Caller) -> list[dict[str, object]]:
    """Publish the versions of the bundle in the body, as `export_bundle` writes it, under this name."""
    caller.check("publish", task)
    state, length = app_state(request), RequestHeaders.read(request.scope).length
    with state.bodies.bundle(), tempfile.TemporaryFile() as file:
        await receive_bundle(request.receive, length, file, state.limits)
        versions = await run_in_threadpool(caller.import_bundle, task, file)
    return [version.to_dict() for version in versions]


@routes.get("/v1/bundles/{ref:path}")
def send_bundle(ref: str, caller: Caller) -> StreamingResponse:
    """Send a version as a bundle: a plain tar of its manifest and files, without the backbone."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        nbytes = caller.export_bundle(ref, file)
        body = chunks(file, stack.pop_all())
    return StreamingResponse(body, media_type="application/x-tar", headers={"Content-Length": str(nbytes)})


def chunks(file: BinaryIO, held: ExitStack) -> Iterator[bytes]:
    with held:
        file.seek(0)
        while chunk := file.read(CHUNK_NBYTES):
            yield chunk
