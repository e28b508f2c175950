"""Send attacks over real sockets and keep what came back."""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.hostile.cases import KEY, Case, End, Step

AT_ONCE = 8  # quick attacks that run side by side
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
QUIET_S = 0.15  # after a whole answer, how long to wait for one more
LINGER_S = 2.0  # past its limit, how long a case is watched
RECEIVED_NBYTES = 1 << 20


@dataclass(frozen=True)
class Reply:
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """What one client of an attack saw: the responses, whether the server closed, and after how long."""

    replies: tuple[Reply, ...]
    is_closed: bool
    seconds: float


async def run_attacks(port: int, secret: str, cases: Sequence[Case]) -> dict[str, list[Exchange]]:
    """Run those that wait for the server from the start, and the others a few at a time beside them."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run(case: Case) -> list[Exchange]:
        if case.expect.is_cut_off:
            return await run_case(port, secret, case)
        async with room:
            return await run_case(port, secret, case)

    results = await asyncio.gather(*map(run, cases))
    return {case.name: result for case, result in zip(cases, results, strict=True)}


async def run_case(port: int, secret: str, case: Case) -> list[Exchange]:
    # Large payloads take seconds to make: in a thread, the other attacks go on.
    steps = [await asyncio.to_thread(case.steps) for _ in range(case.copies)]
    clients = (exchange(port, secret, one, case.expect.within_s + LINGER_S) for one in steps)
    return list(await asyncio.gather(*clients))


async def exchange(port: int, secret: str, steps: Iterable[Step], limit_s: float) -> Exchange:
    """Send the steps, and read until the server closes, has answered all and is quiet, or the limit is over."""
    start = time.monotonic()
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), limit_s)
    except OSError:
        return Exchange((), is_closed=True, seconds=time.monotonic() - start)
    sending = asyncio.ensure_future(_send(writer, secret, steps))
    received = bytearray()
    is_closed = False
    while (left_s := start + limit_s - time.monotonic()) > 0:
        wait_s = min(left_s, QUIET_S if received else left_s)
        try:
            chunk = await asyncio.wait_for(reader.read(RECEIVED_NBYTES), wait_s)
        except TimeoutError:
            if sending.done() and received and is_whole(bytes(received)):
                break
            continue
        except OSError:
            chunk = b""
        if not chunk:
            is_closed = True
            break
        received += chunk
    seconds = time.monotonic() - start
    sending.cancel()
    writer.transport.abort()
    return Exchange(tuple(parse_replies(bytes(received))), is_closed=is_closed, seconds=seconds)


async def _send(writer: asyncio.StreamWriter, secret: str, steps: Iterable[Step]) -> None:
    try:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step.replace(KEY, secret.encode()))
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step is End.FIN:
                writer.write_eof()
            else:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
    except OSError:
        return  # the server has closed: what it said is read elsewhere


class _Received(io.BytesIO):
    """Bytes that `HTTPResponse` takes for a socket; several responses are read from it one after the other."""

    def makefile(self, _mode: str) -> _Received:
        return self

    def close(self) -> None:
        """Stay open for the next response."""


def parse_replies(data: bytes) -> list[Reply]:
    """Return the responses in the bytes; what does not begin like one is the body of a reply with status 0."""
    data = data.removeprefix(CONTINUE)
    stream, replies = _Received(data), []
    while stream.tell() < len(data):
        begins = stream.tell()
        response = http.client.HTTPResponse(stream)  # type: ignore[arg-type]  # it asks for a file only
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, ValueError):
            replies.append(Reply(0, {}, data[begins:]))
            break
        replies.append(Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, body))
    return replies


def is_whole(data: bytes) -> bool:
    """Say whether the bytes end where a response ends."""
    replies = parse_replies(data)
    return bool(replies) and all(reply.status for reply in replies)
