"""Lines arrive whole and in order, and a reader that is slow or gone delays nobody."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from serving.cluster.log_relay import LogRelay
from serving.telemetry.log_sink import MOST_LINES, LogSink


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path / "pipe")


def put(sink: LogSink, lines: list[str]) -> None:
    for line in lines:
        sink.put(line)
    sink.flush()


def test_lines_of_several_writers_arrive_whole_in_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT)
    relay = LogRelay(tmp_path, descriptor)
    sinks = [LogSink(str(relay.path)) for _ in range(3)]
    lines = [[f"{writer}-{number}-" + "x" * (number % 700) for number in range(500)] for writer in range(3)]
    for chunk in range(0, 500, 50):
        for sink, own in zip(sinks, lines, strict=True):
            put(sink, own[chunk : chunk + 50])
    end = time.monotonic() + 20
    while len(out.read_text().splitlines()) < 1500 and time.monotonic() < end:
        for sink in sinks:
            sink.flush()
        time.sleep(0.01)
    got = out.read_text().splitlines()
    for writer, own in enumerate(lines):
        assert [line for line in got if line.startswith(f"{writer}-")] == own
    assert [sink.dropped for sink in sinks] == [0, 0, 0]


def test_what_nobody_reads_is_dropped_and_counted_and_what_comes_later_is_written(pipe: str) -> None:
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sink = LogSink(pipe)
    start = time.monotonic()
    for _ in range(MOST_LINES + 500):
        sink.put("y" * 100)
    sink.flush()
    assert time.monotonic() - start < 20  # it does not wait for the reader
    assert sink.dropped == 500
    read = b""
    while (len(read) < 101 * MOST_LINES) and (chunk := os.read(reader, 1 << 20)):
        read += chunk
        sink.flush()
    assert read == (b"y" * 100 + b"\n") * MOST_LINES
    os.close(reader)
    put(sink, ["lost"])
    assert sink.dropped == 501


def test_a_file_gets_what_is_added_to_it(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    sink = LogSink(str(tmp_path / "log"))
    put(sink, ["é", "after"])
    assert (tmp_path / "log").read_text("utf-8") == "before\né\nafter\n"
