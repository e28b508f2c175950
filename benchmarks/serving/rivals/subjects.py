"""The servers of a comparison: how each is started, how it is asked, and where its answer is."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.server_process import memory_of, started
from support.servers import free_port, free_ports

from benchmarks.serving.rivals.workload import Workload
from benchmarks.support.load.plan import post
from benchmarks.support.processes import ROOT, environment
from serving.cluster.descendants import descendants

JSON = "Content-Type: application/json"

UNENDING = ("benchmarks.serving.rivals.on_litserve", "benchmarks.serving.rivals.on_mlserver")
"""Servers that a SIGTERM does not end within a minute, or whose workers outlive them."""


@dataclass(frozen=True)
class Subject:
    """One way to be asked; `copies` says that each task has a backbone of its own."""

    name: str
    ask: Callable[[str, bytes], bytes]
    answer: Callable[[Mapping[str, Any]], int]
    copies: bool = False
    is_on_ray: bool = False


@dataclass(frozen=True)
class Server:
    """A process that answers for one subject or for several, and the paths that answer once it is ready."""

    module: str
    subjects: tuple[Subject, ...]
    paths: tuple[str, ...]
    python: str = sys.executable
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self, workload: Workload) -> Iterator[Running]:
        port = free_port()
        command = [self.python, "-m", self.module, *(self.fill(one, workload, port) for one in self.arguments)]
        env = environment({**os.environ, **self.environment})
        env["PYTHONPATH"] = os.pathsep.join((env["PYTHONPATH"], str(ROOT / "tests")))
        with started(command, port, env=env, paths=self.paths) as process:
            running = Running(port, process.pid, is_on_ray=self.module not in UNENDING)
            try:
                yield running
            finally:
                if self.module in UNENDING:
                    running.signal(signal.SIGKILL)

    def fill(self, argument: str, workload: Workload, port: int) -> str:
        return argument.format(store=workload.store, folder=workload.folder, port=port)


@dataclass(frozen=True)
class Running:
    """A server that answers on the port; `pid` is the process whose descendants do the work."""

    port: int
    pid: int
    is_on_ray: bool

    def signal(self, number: signal.Signals) -> None:
        """Send it to all processes of the server."""
        for pid in (*descendants(self.pid), self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def memory_nbytes(self) -> int:
        return memory_of(self.pid)


def _label(answer: Mapping[str, Any]) -> int:
    return int(answer["label"])


def _ask_litserve(task: str, image: bytes) -> bytes:
    return post("/predict", json.dumps({"task": task, "image": base64.b64encode(image).decode()}).encode(), JSON)


def _ask_mlserver(task: str, image: bytes) -> bytes:
    data = [base64.b64encode(image).decode()]
    one = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}, "data": data}
    return post(f"/v2/models/{task}/infer", json.dumps({"inputs": [one]}).encode(), JSON)


def ask_ours(task: str, image: bytes) -> bytes:
    return post(f"/v1/predict/{task}", image)


def ask_ours_together(task: str, images: list[bytes]) -> bytes:
    """Return one request with many images of a task, as multipart/form-data."""
    mark = b"--images\r\n"
    parts = [mark + b'Content-Disposition: form-data; name="image"\r\n\r\n' + image + b"\r\n" for image in images]
    return post(
        f"/v1/predict/{task}", b"".join(parts) + b"--images--\r\n", "Content-Type: multipart/form-data; boundary=images"
    )


OURS = Subject("onetrunk", ask_ours, lambda answer: int(answer["top"][0]["label"].removeprefix("class ")))
MULTIPLEXED = Subject(
    "Ray multiplexed",
    lambda task, image: post("/multiplexed", image, f"serve_multiplexed_model_id: {task}"),
    _label,
    copies=True,
    is_on_ray=True,
)
BATCHED = Subject("Ray batch", lambda task, image: post(f"/batch/{task}", image), _label, is_on_ray=True)
LITSERVE = Subject("LitServe", _ask_litserve, _label)
MLSERVER = Subject("MLServer", _ask_mlserver, lambda answer: int(answer["outputs"][0]["data"][0]), copies=True)


def our_server(*, plain: bool) -> Server:
    """`onetrunk serve` with its defaults, or the same API on uvicorn alone."""
    if plain:
        arguments = ("{store}", "{port}", "--dtype", "bfloat16")
        return Server("support.plain_server", (OURS,), ("/healthz",), arguments=arguments)
    arguments = ("serve", "--store", "{store}", "--port", "{port}", "--dtype", "bfloat16", "--log", "none")
    return Server("onetrunk", (OURS,), ("/readyz",), arguments=arguments)


def rivals(names: list[str], peer_python: str) -> list[Server]:
    """Return the servers of these names: ray, litserve, mlserver."""
    simple = ("{folder}", "{port}")
    table = {
        "ray": lambda: Server(
            "benchmarks.serving.rivals.on_ray", (MULTIPLEXED, BATCHED), ("/multiplexed", "/batch"), arguments=simple,
            environment=behind_haproxy(),
        ),
        "litserve": lambda: Server(
            "benchmarks.serving.rivals.on_litserve", (LITSERVE,), ("/health",), peer_python, arguments=simple
        ),
        "mlserver": lambda: Server(
            "benchmarks.serving.rivals.on_mlserver", (MLSERVER,), ("/v2/health/ready",), peer_python, arguments=simple
        ),
    }  # fmt: skip
    return [table[name]() for name in names]


def behind_haproxy() -> dict[str, str]:
    """Return the environment in which Ray Serve puts HAProxy in front, with files and ports of its own."""
    folder = Path(tempfile.mkdtemp(prefix="ha-"))  # short: a socket's path has 108 bytes at most
    stats, metrics, fallback = free_ports(3)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(len(os.sched_getaffinity(0))),
    }
