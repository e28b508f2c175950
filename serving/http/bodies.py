"""Bodies of requests: bounded in bytes and in time, one by one and together."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import io
import mmap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from serving.http.errors import ClientGoneError, no_memory, timed_out, too_large, too_many
from serving.http.limits import HttpLimits

STATUS = Path("/proc/self/statm")
TRIM_NBYTES = 16 << 20  # by which this process may grow before it gives back what it has freed
TRIM_S = 1.0  # after the last body: its bytes and pixels are freed once it is answered
SMALL_NBYTES = 1 << 20  # bodies up to this size may take the last quarter of the budget


class BodyBudget:
    """The bytes of all bodies in memory, counted as they come, in all and of each key; used by one thread alone."""

    def __init__(self, limits: HttpLimits, *, per_key: bool) -> None:
        self._most = limits.bodies_nbytes
        self._most_of_a_key = limits.bodies_of_a_key_nbytes if per_key else limits.bodies_nbytes
        self._of_keys: Counter[str] = Counter()
        self._kept_nbytes, self._trimming = resident_nbytes(), False
        self._bundles, self._most_bundles = 0, limits.bundles
        self.nbytes = 0

    @contextmanager
    def bundle(self) -> Iterator[None]:
        """Count a bundle until the block ends; raise where too many are on their way."""
        if self._bundles >= self._most_bundles:
            raise no_memory(f"{self._bundles} bundles are on their way, which is the most: try again later")
        self._bundles += 1
        try:
            yield
        finally:
            self._bundles -= 1

    @contextmanager
    def held(self, key: str) -> Iterator[HeldBody]:
        """Count a body's bytes until the block ends."""
        body = HeldBody(self, key)
        try:
            yield body
        finally:
            self._count(key, -body.nbytes)
            if self.nbytes == 0 and not self._trimming:
                self._trimming = True
                asyncio.get_running_loop().call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        """Give back what bodies and their pixels took, where none is there now."""
        self._trimming = False
        if self.nbytes == 0 and resident_nbytes() >= self._kept_nbytes + TRIM_NBYTES:
            asyncio.get_running_loop().run_in_executor(None, self._give_back)

    def _give_back(self) -> None:
        gc.collect()  # an error whose traceback leads to itself keeps the body that was refused with it
        give_memory_back()
        self._kept_nbytes = resident_nbytes()

    def take(self, key: str, nbytes: int, total: int) -> None:
        """Count so many more bytes of a body of `total`, or raise where they are too many."""
        if self._of_keys[key] + nbytes > self._most_of_a_key and self._most_of_a_key < self._most:
            raise too_many(f"bodies of this key take the {self._most_of_a_key:,} bytes that it may have: send fewer")
        if self.nbytes + nbytes > (self._most if total <= SMALL_NBYTES else self._most * 3 // 4):
            raise no_memory(f"bodies take {self.nbytes:,} bytes of the {self._most:,} that may be: try again later")
        self._count(key, nbytes)

    def _count(self, key: str, nbytes: int) -> None:
        self.nbytes += nbytes
        self._of_keys[key] += nbytes
        if not self._of_keys[key]:
            del self._of_keys[key]


class HeldBody:
    """A body while it is in memory."""

    def __init__(self, budget: BodyBudget, key: str) -> None:
        self._budget, self._key = budget, key
        self.nbytes = 0

    def take(self, nbytes: int, total: int) -> None:
        self._budget.take(self._key, nbytes, total)
        self.nbytes += nbytes


async def read_body(receive: Receive, length: int | None, held: HeldBody, limits: HttpLimits) -> bytes:
    """Read a body of at most `image_nbytes` within `body_s`; it is in memory once."""
    check_length(length, limits.image_nbytes)
    if length is not None:
        held.take(0, length)  # refused before it is read where it cannot be held anyway
    parts, nbytes = io.BytesIO(), 0
    async for chunk in chunks(receive, limits.body_s, limits.chunk_s):
        nbytes += len(chunk)
        check_length(nbytes, limits.image_nbytes)
        held.take(len(chunk), max(nbytes, length or 0))
        if nbytes == len(chunk) == length:
            return chunk  # the common case: all of it in one piece
        parts.write(chunk)
    return parts.getvalue()  # the bytes themselves, which are not copied


async def receive_bundle(receive: Receive, length: int | None, file: BinaryIO, limits: HttpLimits) -> None:
    """Write the body to the file; raise where it is, or says that it will be, too large, or comes too slowly."""
    remedy = ": leave the backbone out, or import it where the store is"
    check_length(length, limits.bundle_nbytes, remedy)
    nbytes = 0
    async for chunk in chunks(receive, 10 * limits.body_s, limits.chunk_s):
        nbytes += len(chunk)
        check_length(nbytes, limits.bundle_nbytes, remedy)
        await run_in_threadpool(file.write, chunk)


def check_length(nbytes: int | None, most: int, remedy: str = ": send a smaller or more compressed image") -> None:
    if nbytes is not None and nbytes > most:
        raise too_large(f"body is larger than {most:,} bytes{remedy}")


class chunks:  # noqa: N801 - used as a function; a generator would cost more for each body
    """Iterate over a body's pieces; raise where the next one, or the last one, is late, or the client is gone."""

    def __init__(self, receive: Receive, body_s: float, chunk_s: float) -> None:
        self._receive, self._body_s, self._chunk_s = receive, body_s, chunk_s
        self._end: float | None = None
        self._more = True

    def __aiter__(self) -> chunks:
        return self

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        now = time.monotonic()
        self._end = self._end or now + self._body_s
        try:
            async with asyncio.timeout(min(self._chunk_s, self._end - now)):
                message = await self._receive()
        except TimeoutError:
            raise timed_out(
                f"the body did not come in time: {self._body_s:g} s are given for all of it, {self._chunk_s:g} s "
                "for its next piece"
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._more = message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body


def give_memory_back() -> None:
    """Return freed memory to the system; glibc keeps it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_nbytes() -> int:
    """Return the memory of this process; 0 where the system has no `/proc`."""
    try:
        return int(STATUS.read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0
