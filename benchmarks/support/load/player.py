"""Play a plan from the standard input: many connections on one event loop, some 30 us of CPU a request."""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import sys
import time
from collections.abc import Iterator
from typing import cast

import uvloop

from benchmarks.support.load.plan import DRAIN_S, Plan

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
FAILED = 0


class Connection(asyncio.Protocol):
    """One connection that has at most one request out; `free` is called when it could take the next."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._ask: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class

    def send(self, request: int, due: float) -> None:
        assert self._transport is not None
        self._ask = request, due
        self._transport.write(self._player.plan.requests[request])

    def data_received(self, data: bytes) -> None:
        if self._ask is None:  # a server that gives up an idle connection may say so before it closes it
            self.close()
            return
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._received, 0, end)
        if length is None:
            self._received.endswith(b"0\r\n\r\n") and self._finish(int(self._received[9:12]))
        elif len(self._received) >= end + 4 + int(length[1]):
            self._finish(int(self._received[9:12]))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._ask is not None:
            self._finish(FAILED)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, status: int) -> None:
        assert self._ask is not None
        request, due = self._ask
        self._ask = None
        self._received.clear()
        self._player.finished(self, request, due, status)


class Player:
    """Plays a plan on one event loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.samples: list[tuple[int, float, float, int]] = []
        self._draw = random.Random(plan.seed)
        self.start = 0.0
        self.refused = 0
        self._idle: list[Connection] = []
        self._due: list[tuple[int, float]] = []
        self._out = 0
        self._all_in = asyncio.Event()

    async def play(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.plan.connections):
            self._idle.append(await self._connect())
        self.start = time.monotonic()
        if self.plan.rate is None:
            for connection in [self._idle.pop() for _ in range(self.plan.connections)]:
                self._send(connection, self._draw.randrange(len(self.plan.requests)), time.monotonic())
            await asyncio.sleep(self.plan.seconds)
        else:
            for request, due_s in self._arrivals(self.plan.rate):
                await asyncio.sleep(self.start + due_s - time.monotonic())
                self._due.append((request, self.start + due_s))
                self._send_due()
        if self._out or self._due:
            loop.call_later(DRAIN_S, self._all_in.set)
            await self._all_in.wait()

    def finished(self, connection: Connection, request: int, due: float, status: int) -> None:
        now = time.monotonic()
        self.samples.append((request, due - self.start, now - due, status))
        self._out -= 1
        is_over = self.plan.rate is None and now >= self.start + self.plan.seconds
        if not connection.is_open:
            is_over or asyncio.ensure_future(self._replace())
        elif self.plan.rate is not None:
            self._idle.append(connection)
            self._send_due()
        elif not is_over:
            self._send(connection, self._draw.randrange(len(self.plan.requests)), now)
        if not self._out and not self._due:
            self._all_in.set()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.plan.port)
        return connection

    async def _replace(self) -> None:
        """Open a connection for one that the server closed; a server that takes none is asked ten times a second."""
        try:
            connection = await self._connect()
        except OSError:
            self.refused += 1
            await asyncio.sleep(0.1)
            if time.monotonic() < self.start + self.plan.seconds:
                asyncio.ensure_future(self._replace())  # noqa: RUF006 - it ends with the loop
            return
        if time.monotonic() >= self.start + self.plan.seconds and not self._due:
            connection.close()
        elif self.plan.rate is None:
            self._send(connection, self._draw.randrange(len(self.plan.requests)), time.monotonic())
        else:
            self._idle.append(connection)
            self._send_due()

    def _send(self, connection: Connection, request: int, due: float) -> None:
        self._out += 1
        self._all_in.clear()
        connection.send(request, due)

    def _send_due(self) -> None:
        while self._due and self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._send(connection, *self._due.pop(0))
            else:
                asyncio.ensure_future(self._replace())  # noqa: RUF006 - it ends with the loop

    def _arrivals(self, rate: float) -> Iterator[tuple[int, float]]:
        due_s = self._draw.expovariate(rate)
        while due_s < self.plan.seconds:
            yield self._draw.randrange(len(self.plan.requests)), due_s
            due_s += self._draw.expovariate(rate)


def main() -> None:
    player = Player(Plan.from_json(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(player.play())
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime
    json.dump({"samples": player.samples, "cpu_s": cpu_s, "start": player.start, "refused": player.refused}, sys.stdout)


if __name__ == "__main__":
    main()
