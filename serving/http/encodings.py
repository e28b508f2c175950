"""Compressed bodies: what they expand to is bounded as it comes out, in bytes and in the memory of all bodies."""

from __future__ import annotations

import io
import zlib

from starlette.concurrency import run_in_threadpool

from serving.http.bodies import HeldBody, check_length
from serving.http.errors import wrong_encoding
from serving.http.limits import HttpLimits
from store.errors import FormatError

PIECE_NBYTES = 1 << 20
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def expand(body: bytes, encoding: str, held: HeldBody, limits: HttpLimits) -> bytes:
    """Return the body as it was before it was compressed; raise where it is malformed, or expands to too much."""
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOWS:
        raise wrong_encoding(encoding, "send the body as it is, or as gzip or deflate")
    stream, parts, nbytes, left = zlib.decompressobj(WINDOWS[encoding]), io.BytesIO(), 0, body
    while not stream.eof:
        try:
            piece = await run_in_threadpool(stream.decompress, left, PIECE_NBYTES)
        except zlib.error:
            raise FormatError(f"the body is not what its content-encoding {encoding} says: send it as it is") from None
        left = stream.unconsumed_tail
        if not piece and not left and not stream.eof:
            raise FormatError(f"the {encoding} body ends too early: send all of it")
        nbytes += len(piece)
        check_length(nbytes, limits.image_nbytes)
        held.take(len(piece), nbytes)
        parts.write(piece)
    if stream.unused_data:
        raise FormatError(f"{len(stream.unused_data):,} bytes follow the {encoding} body: send one stream")
    return parts.getvalue()


def check_plain(encoding: str) -> None:
    """Raise for a compressed body where none is understood."""
    if encoding not in ("", "identity"):
        raise wrong_encoding(encoding, "send the body as it is")
