"""Versions in and out over HTTP, as bundles that never lie in memory as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from serving.http.auth import Caller
from store.errors import FormatError
from store.records.version import summarise

MAX_BUNDLE_NBYTES = 256 << 20
CHUNK_NBYTES = 1 << 20

routes = APIRouter()


@routes.post("/v1/bundles/{task:path}")
async def publish_bundle(task: str, request: Request, caller: Caller) -> list[dict[str, object]]:
    """Publish the versions of the bundle in the body, as `onetrunk export --bundle` makes it, under this name."""
    caller.check("publish", task)
    with tempfile.TemporaryFile() as file:
        await receive(request, file)
        versions = await run_in_threadpool(caller.import_bundle, task, file)
    return [summarise(version) for version in versions]


@routes.get("/v1/bundles/{ref:path}")
def send_bundle(ref: str, caller: Caller) -> StreamingResponse:
    """Send a version as a bundle: a plain tar of its manifest and files, without the backbone."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        nbytes = caller.export_bundle(ref, file)
        body = chunks(file, stack.pop_all())
    return StreamingResponse(body, media_type="application/x-tar", headers={"Content-Length": str(nbytes)})


async def receive(request: Request, file: BinaryIO) -> None:
    """Write the body to the file; raise `FormatError` where it is, or says that it will be, too large."""
    nbytes = int(request.headers.get("content-length", 0))
    if nbytes <= MAX_BUNDLE_NBYTES:
        nbytes = 0
        async for chunk in request.stream():
            nbytes += len(chunk)
            if nbytes > MAX_BUNDLE_NBYTES:
                break
            await run_in_threadpool(file.write, chunk)
    if nbytes > MAX_BUNDLE_NBYTES:
        raise FormatError(
            f"the bundle has more than the {MAX_BUNDLE_NBYTES:,} bytes that are taken over HTTP: leave the backbone "
            "out, or import it where the store is"
        )


def chunks(file: BinaryIO, held: ExitStack) -> Iterator[bytes]:
    with held:
        file.seek(0)
        while chunk := file.read(CHUNK_NBYTES):
            yield chunk
