"""Bodies of requests, refused as soon as they are larger than their limit."""

from __future__ import annotations

from typing import BinaryIO

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from store.errors import FormatError, ImageError

MAX_IMAGE_NBYTES = 32 << 20
MAX_BUNDLE_NBYTES = 256 << 20


async def read_image(request: Request) -> bytes:
    """Read the body, refusing one of more than `MAX_IMAGE_NBYTES` before it is in memory."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_IMAGE_NBYTES:
            raise ImageError(f"body is larger than {MAX_IMAGE_NBYTES:,} bytes: send a smaller or more compressed image")
    return bytes(body)


async def receive_bundle(request: Request, file: BinaryIO) -> None:
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
