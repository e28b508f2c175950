"""HAProxy itself, with the configuration that the edits make, in front of two replicas that only count and wait."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from support.haproxy import rendered
from support.servers import free_port, free_ports

from serving.cluster import haproxy_config
from serving.cluster.haproxy import ERRORS, find_haproxy, write_error
from serving.cluster.haproxy_config import FEW, REFUSALS, SMALL_NBYTES, IngressSettings
from serving.cluster.refusal_log import Refusal

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="ray[serve] brings HAProxy on Linux only")
HELD, WAIT_MS = 2, 1000
PREDICT = "POST /v1/predict/flowers"


class Replicas:
    """Two servers that answer each request after the seconds in its target."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self.inside: Counter[int] = Counter()
        self.most = 0
        self.starts: list[list[str]] = []

    async def __aenter__(self) -> Replicas:
        self._servers = [await asyncio.start_server(self._serve(port), "127.0.0.1", port) for port in self._ports]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self._servers:
            server.close()

    def _serve(self, port: int):
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if head := await _head(reader):
                length = re.search(r"content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                hold = re.search(r"hold=([\d.]+)", head)
                if hold:
                    self.starts.append(re.findall(r"x-request-start: (\d+)", head))
                    self.inside[port] += 1
                    self.most = max(self.most, *self.inside.values())
                    await asyncio.sleep(float(hold[1]))
                    self.inside[port] -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            writer.close()

        return serve


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    except (asyncio.IncompleteReadError, ConnectionError):
        return ""


async def ask(port: int, line: str, body: bytes = b"image", *, key: str = "key") -> tuple[int, float, bytes]:
    """Return the status, the seconds that it took, and what came."""
    begin = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = [f"{line} HTTP/1.1", "Host: x", "Connection: close", f"Authorization: Bearer {key}", "X-Request-Start: 1"]
    writer.write("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
    said = await reader.read()
    writer.close()
    return int(said[9:12]), time.monotonic() - begin, said


@contextmanager
def ingress(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """Run HAProxy; yield its port and those of the two replicas."""
    port, replicas = free_port(), list(free_ports(2))
    text = rendered(folder)
    for ray, ours in zip((30000, 30001), replicas, strict=True):
        text = text.replace(f"127.0.0.1:{ray}", f"127.0.0.1:{ours}")
    address = f"127.0.0.1:{port}"
    for status in ERRORS:
        write_error(status, folder)
    settings = IngressSettings(str(find_haproxy()), str(folder), address, ["/"], False, held=HELD, wait_ms=WAIT_MS)
    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    (folder / "edited.cfg").write_text(text)
    os.mkfifo(folder / REFUSALS)
    script = [sys.executable, "-IS", haproxy_config.__file__, str(folder / "settings.json")]
    with subprocess.Popen([*script, "-db", "-f", str(folder / "edited.cfg")], stderr=subprocess.DEVNULL) as run:
        try:
            yield port, replicas
        finally:
            run.kill()


def refused(pipe: int) -> list[Refusal]:
    """What HAProxy wrote of its own refusals."""
    try:
        lines = os.read(pipe, 1 << 20).decode().splitlines()
    except BlockingIOError:
        return []
    parsed = [Refusal.parse(line) for line in lines]
    return [each for each in parsed if each is not None]


async def until_up(port: int) -> None:
    for _ in range(400):
        try:
            if (await ask(port, "GET /readyz"))[0] == 200:
                return
        except OSError:
            await asyncio.sleep(0.05)
    raise AssertionError("HAProxy does not answer")


def test_a_replica_has_so_many_small_predictions_and_the_rest_waits_or_is_refused(tmp_path):
    async def check(port: int, ports: list[int]) -> None:
        async with Replicas(ports) as replicas:
            await until_up(port)
            small = [asyncio.create_task(ask(port, f"{PREDICT}?hold=3")) for _ in range(8)]
            await asyncio.sleep(0.3)
            assert sum(replicas.inside.values()) == 2 * HELD
            assert (await ask(port, "GET /readyz"))[0] == 200
            large = await asyncio.gather(
                *[ask(port, f"{PREDICT}?hold=0.01", bytes(SMALL_NBYTES + 1)) for _ in range(9)]
            )
            assert {status for status, _, _ in large} == {200}
            answers = await asyncio.gather(*small)
            assert Counter(status for status, _, _ in answers) == {200: 2 * HELD, 503: 8 - 2 * HELD}
            refused = next(said for status, _, said in answers if status == 503)
            assert b"retry-after: 1" in refused.lower()
            assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"] == "OverloadedError"
            told = Counter(len(start) for start in replicas.starts)
            assert told == {1: 2 * HELD, 0: 9}
            assert all(start != ["1"] for start in replicas.starts)

    with ingress(tmp_path) as (port, ports):
        asyncio.run(check(port, ports))


def test_the_key_that_had_fewer_answers_goes_first(tmp_path):
    async def check(port: int, ports: list[int]) -> None:
        async with Replicas(ports) as replicas:
            await until_up(port)
            line, done = f"{PREDICT}?hold=0.02", []

            async def noted(key: str) -> None:
                status, _, _ = await ask(port, line, key=key)
                done.append((key, status))

            await asyncio.gather(*[ask(port, line, key="many") for _ in range(20)])
            many = [asyncio.create_task(noted("many")) for _ in range(80)]
            await asyncio.sleep(0.1)
            await asyncio.gather(*[noted("few") for _ in range(4)])
            assert done.count(("few", 200)) == 4
            assert done.count(("many", 200)) < 70
            await asyncio.gather(*many)
            assert replicas.most <= HELD + 1  # two threads of HAProxy may pass its limit at once (haproxy/haproxy#2744)

    with ingress(tmp_path) as (port, ports):
        asyncio.run(check(port, ports))


async def say(port: int, text: bytes) -> bytes:
    """Send what no client would, and return what came until the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    said = await reader.read()
    writer.close()
    return said


def test_what_haproxy_refuses_by_itself_is_told_with_its_id_and_what_a_replica_answers_is_not(tmp_path):
    async def check(port: int, ports: list[int], pipe: int) -> None:
        async with Replicas(ports):
            await until_up(port)
            first = asyncio.gather(*[ask(port, f"{PREDICT}?hold=3") for _ in range(2 * HELD)])
            await asyncio.sleep(0.3)
            waited = (await ask(port, PREDICT))[2]
            assert (await say(port, b"not HTTP at all\r\n\r\n"))[9:12] == b"400"
            await first
        while (await ask(port, "GET /readyz"))[0] == 200:
            await asyncio.sleep(0.05)
        await ask(port, PREDICT)
        await asyncio.sleep(0.1)
        found = refused(pipe)
        of_predictions = [each for each in found if each.path == "/v1/predict/flowers"]
        assert [each.series for each in of_predictions] == [("503", "no_place"), ("503", "no_replica")]
        assert ("400", "malformed") in [each.series for each in found]
        (given,) = re.findall(rb"x-request-id: (\S+)", waited)
        assert of_predictions[0].id == given.decode()
        line = json.loads(of_predictions[0].line())
        assert (line["status"], line["method"], line["reason"]) == (503, "POST", "no_place")
        assert line["ms"] >= 0.9 * WAIT_MS

    with ingress(tmp_path) as (port, ports):
        asyncio.run(check(port, ports, os.open(tmp_path / REFUSALS, os.O_RDONLY | os.O_NONBLOCK)))


def test_what_has_no_chance_in_its_time_is_refused_at_once_where_many_wait(tmp_path):
    async def check(port: int, ports: list[int], pipe: int) -> None:
        async with Replicas(ports):
            await until_up(port)
            await asyncio.sleep(0.2)
            refused(pipe)  # until the replicas were there
            answers = await asyncio.gather(*[ask(port, f"{PREDICT}?hold=0.2&timeout_ms=500") for _ in range(60)])
            at_once = [seconds for status, seconds, _ in answers if status == 503 and seconds < WAIT_MS / 2000]
            await asyncio.sleep(0.1)
            series = Counter(each.series for each in refused(pipe))
            assert series["503", "no_chance"] == len(at_once) >= 60 - 2 * HELD - FEW - 4
            assert series["503", "no_place"] > 0

    with ingress(tmp_path) as (port, ports):
        asyncio.run(check(port, ports, os.open(tmp_path / REFUSALS, os.O_RDONLY | os.O_NONBLOCK)))
