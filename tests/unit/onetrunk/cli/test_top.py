"""`onetrunk top` against a real HTTP server: once, as JSON, and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from support.cli import call
from support.http_server import HttpServer, http_server
from support.oracle import make_task, open_shop, png

IMAGE = png(torch.arange(32 * 32 * 3).reshape(32, 32, 3).remainder(251).to(torch.uint8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("top")
    with open_shop(folder) as shop:
        made = make_task(shop.backbone, folder / "task", depth=2, classes=3)
        shop.store.publish("cars", made.folder, backbone=shop.backbone.record.name, depth=2)
    with http_server(str(folder / "store"), IMAGE) as running:
        for ref in ("cars", "cars", "birds"):
            running.predict(ref)
        yield running


def test_once_prints_what_is_there_and_json_is_what_the_server_answers(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    url = f"http://127.0.0.1:{server.port}"
    done = call("top", url, "--once", store="none")
    assert done.code == 0, done.err
    assert "2 × 200, 1 × 404" in done.out
    for title in ("replicas", "latency, ms", "tenants", "tasks", "last errors"):
        assert title in done.out
    assert "TaskNotFoundError: no task 'birds'" in done.out
    statistics = call("top", url, "--once", "--json", store="none").json
    assert statistics["requests"]["by_status"] == {"200": 2, "404": 1}


def test_an_address_without_a_server_is_one_line() -> None:
    done = call("top", "http://127.0.0.1:1", "--once", store="none")
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "does not answer" in done.err


def test_on_a_terminal_it_goes_on_until_ctrl_c_and_leaves_the_screen_as_it_was(server: HttpServer) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "onetrunk", "top", f"http://127.0.0.1:{server.port}", "--interval", "0.2"]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    seen, end, stopped = b"", time.monotonic() + 60, False
    while time.monotonic() < end:
        if select.select([leader], [], [], 0.1)[0]:
            try:
                seen += os.read(leader, 1 << 16)
            except OSError:  # the terminal has no other end any more
                break
        if seen.count(b"\x1b[H") >= 3 and not stopped:
            process.send_signal(signal.SIGINT)
            stopped = True
    assert process.wait(30) == 0
    os.close(leader)
    assert seen.startswith(b"\x1b[?1049h")
    assert seen.rstrip().endswith(b"\x1b[?1049l")
    assert b"requests/s" in seen


def test_a_line_of_json_comes_for_each_look(server: HttpServer) -> None:
    url = f"http://127.0.0.1:{server.port}"
    command = [sys.executable, "-m", "onetrunk", "top", url, "--json", "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.terminate()
    assert lines[0]["at"] < lines[1]["at"] < lines[2]["at"]
