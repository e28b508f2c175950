"""A server in a process of its own: its start until it answers, its end, and the memory of all that it started."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_S = 180.0
STOP_S = 60.0


@contextlib.contextmanager
def started(
    command: Sequence[str], port: int, *, env: Mapping[str, str] = os.environ, paths: Sequence[str] = ("/healthz",)
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command until the end of the block; yield its process once every path is answered with 200."""
    with subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(process, [f"http://127.0.0.1:{port}{path}" for path in paths])
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_for(process: subprocess.Popen[bytes], urls: Sequence[str], *, every_s: float = 0.05) -> None:
    end = time.monotonic() + START_S
    for url in urls:
        while not answers(url):
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < end, f"{url} is not answered"
            time.sleep(every_s)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (OSError, http.client.HTTPException):
        return False


def memory_of(pid: int) -> int:
    """Return the bytes of memory of the process and its descendants; what some share is split between them."""
    return sum(_pss(one) for one in [pid, *descendants(pid)])


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat_fields(path)[1]), []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def stat_fields(path: Path) -> list[str]:
    """Return the fields of a /proc/PID/stat after the name: the state, the parent, …"""
    return path.read_text().rpartition(")")[2].split()


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has ended
    return 1024 * next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def post_image(url: str, image: bytes) -> tuple[int, dict[str, object]]:
    """Send an image; return the status and the JSON of the answer, whatever it is."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=image), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
