"""Serve a store over HTTP from a process of its own, which runs Ray; this one needs neither Ray nor torch."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from serving.addresses import absolute_catalogue, absolute_store
from serving.cluster.haproxy import find_haproxy
from serving.cluster.plan import (
    HAPROXY,
    HELD_BY_A_GPU,
    HELD_BY_A_THREAD,
    MAX_WAIT_S,
    PYTHON,
    Replicas,
    ServerPlan,
)
from serving.config import ServeConfig
from serving.cpus import usable_cores
from serving.port import check_port
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, check_schedule
from serving.telemetry_options import TelemetryOptions
from store import errors
from store.errors import InvalidSettingError, NotAllowedError, ServerError
from store.registry.store import Store

INGRESSES = ("auto", HAPROXY, PYTHON)
ONE = Replicas(1, 1)
NO_TELEMETRY = TelemetryOptions()
STOP_S = 10.0


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at this address."""

    url: str
    process: subprocess.Popen[str]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


def serve(
    store_url: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8265,
    grpc_port: int | None = None,
    catalogue: str | None = None,
    backbone: str | Sequence[str] | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    batch_invariant: bool = False,
    schedule: str = DEFAULT_SCHEDULE,
    keys: bool = False,
    rate_limit: float | None = None,
    max_wait_s: float = MAX_WAIT_S,
    telemetry: TelemetryOptions = NO_TELEMETRY,
    replicas: int | tuple[int, int] | None = None,
    ingress: str = "auto",
    affinity: bool = False,
    name: str = "onetrunk",
    prefix: str = "/",
    insecure: bool = False,
) -> AbstractContextManager[RunningServer]:
    """Return a context in which the tasks of the store are served over HTTP, each replica on all of its backbones.

    With `backbone`, the tasks of that one, or of those several, alone. Without `replicas`, one for each core that this
    process may use, with one thread each; a pair is the least and the most of them, between which the load decides.
    With `keys`, every request needs an API key; otherwise everyone who reaches the server may predict and read, so
    without them a `host` beyond this machine needs `insecure`. `rate_limit` is the images a second of one key, or
    of all callers without keys, at most, in equal parts for the replicas. HAProxy gives each replica as many small
    predictions as fill its batches; the others wait for `max_wait_s` at most. With `grpc_port`, the Open Inference
    Protocol is served over gRPC there (docs/protocols.md). `telemetry` is where its log and its traces go.
    `schedule` is stretch, least-work or first-come (docs/engine.md). With `affinity`, a task's requests go to one
    replica. `name` and `prefix` tell the server from others on the Ray cluster that RAY_ADDRESS names. Raises an
    error of the store where it cannot be opened, and on entering `PortTakenError` or `ServerError`.
    """
    check_schedule(schedule)
    Store.open(store_url, catalogue=catalogue).close()
    check_reach(host, keys=keys, insecure=insecure)
    check_bounds(rate_limit, max_wait_s)
    counts = count_replicas(replicas, threads=threads, device=device)
    config = ServeConfig(
        store=absolute_store(store_url),
        catalogue=absolute_catalogue(catalogue),
        backbone=backbone if backbone is None or isinstance(backbone, str) else list(backbone),
        dtype=dtype,
        device=device,
        threads=threads or (1 if counts.most > 1 else None),
        batch_invariant=batch_invariant,
        schedule=schedule,
        keys=keys,
        rate_limit=None if rate_limit is None else rate_limit / counts.most,
        grpc=None if grpc_port is None else grpc_address(host, grpc_port),
        **{**vars(telemetry), "log": None if telemetry.log is None else "-"},
    )
    start = partial(running, host=host, port=port, name=name, log=telemetry.log)
    applications = {check_prefix(prefix): config}
    return start(applications, replicas=counts, ingress=ingress, affinity=affinity, max_wait_s=max_wait_s)


@contextmanager
def running(
    applications: Mapping[str, ServeConfig],
    *,
    host: str,
    port: int,
    replicas: Replicas = ONE,
    ingress: str = "auto",
    affinity: bool = False,
    max_wait_s: float = MAX_WAIT_S,
    name: str = "onetrunk",
    log: str | Path | None = None,
) -> Iterator[RunningServer]:
    """Serve each application under its route prefix until the block ends, on this machine or on RAY_ADDRESS's cluster.

    On this machine, the lines of requests go to `log`; on a cluster, to each replica's standard output. Raises
    `PortTakenError` before anything is started, and `ServerError` where a replica does not start.
    """
    address = os.environ.get("RAY_ADDRESS") or None
    address = None if address == "local" else address
    if address is None:
        check_port(host, port)
    plan = ServerPlan(
        applications={prefix: config.model_dump() for prefix, config in applications.items()},
        host=host,
        port=port,
        ingress=PYTHON if address else choose_ingress(ingress, affinity=affinity),
        replicas=replicas,
        name=name,
        affinity=affinity,
        ray_address=address,
        held=max(held_by(config) for config in applications.values()),
        max_wait_s=max_wait_s,
    )
    with open_log(None if address else log) as descriptor:
        process = _start(replace(plan, log=descriptor))
    try:
        yield RunningServer(_read_answer(process), process)
    finally:
        _stop(process)


@contextmanager
def open_log(log: str | Path | None) -> Iterator[int | None]:
    """Give the descriptor of a file, or of standard output for `-`, until the block ends."""
    if log is None:
        yield None
        return
    try:
        descriptor = os.dup(1) if log == "-" else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as error:
        raise InvalidSettingError(f"log {str(log)!r} cannot be written ({error.strerror}): name a file") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def count_replicas(replicas: int | tuple[int, int] | None, *, threads: int | None, device: str) -> Replicas:
    """Return how many replicas are asked for: on a CPU, by default, as many as there are cores for their threads."""
    if replicas is None:
        count = max(1, usable_cores() // (threads or 1)) if device == "cpu" else 1
        return Replicas(count, count)
    least, most = (replicas, replicas) if isinstance(replicas, int) else replicas
    if not 1 <= least <= most:
        raise InvalidSettingError(f"replicas {least}:{most}: give a number from 1, or the least and the most of them")
    return Replicas(least, most)


def check_bounds(rate_limit: float | None, max_wait_s: float) -> None:
    if rate_limit is not None and not 0 < rate_limit < float("inf"):
        raise InvalidSettingError(f"a rate of {rate_limit:g} images a second: give a number above 0")
    if not 0.01 <= max_wait_s <= 600:
        raise InvalidSettingError(f"{max_wait_s:g} s to wait for a replica: give 0.01 to 600")


def held_by(config: ServeConfig) -> int:
    """Return how many small predictions a replica has at a time."""
    return HELD_BY_A_GPU if config.device != "cpu" else HELD_BY_A_THREAD * (config.threads or usable_cores())


def choose_ingress(ingress: str, *, affinity: bool) -> str:
    """Return what stands in front of the replicas: HAProxy where it is installed, else Ray's own proxy."""
    if ingress not in INGRESSES:
        raise InvalidSettingError(f"no ingress {ingress!r}: choose one of {', '.join(INGRESSES)}")
    found = find_haproxy() is not None
    if ingress == HAPROXY and not found:
        raise InvalidSettingError("HAProxy comes with ray[serve] on Linux only: choose `ingress='python'`")
    chosen = (HAPROXY if found else PYTHON) if ingress == "auto" else ingress
    if affinity and chosen == PYTHON:
        raise InvalidSettingError("Ray's own proxy cannot send a task to one replica: it takes `ingress='haproxy'`")
    return chosen


def check_reach(host: str, *, keys: bool, insecure: bool) -> None:
    """Raise where everyone beyond this machine could use the server, and nobody has said that they may."""
    if not (keys or insecure or is_loopback(host)):
        raise NotAllowedError(
            f"everyone who reaches {host} could predict and read every task: ask for API keys with `keys=True`, "
            "or allow it with `insecure=True`"
        )


def grpc_address(host: str, port: int) -> str:
    """Return where the replicas listen for gRPC; raise `PortTakenError` where they cannot."""
    check_port(host, port, remedy="`grpc_port=`")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_prefix(prefix: str) -> str:
    """Return it without a slash at the end; raise where it cannot be a path."""
    if not prefix.startswith("/") or not prefix.isascii() or any(c in prefix for c in " ?#%\\{}'\"") or "//" in prefix:
        raise InvalidSettingError(f"prefix {prefix!r}: give a path such as /vision, of letters, digits, - and _")
    return prefix.rstrip("/") or "/"


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _start(plan: ServerPlan) -> subprocess.Popen[str]:
    # The folder of our packages first: the other process must run this code, wherever it was imported from.
    ours = str(Path(__file__).parents[1])
    path = os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "serving.cluster.main", plan.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        pass_fds=[] if plan.log is None else [plan.log],
        start_new_session=True,  # Ctrl-C in a terminal is for this process, which then stops that one in order
        text=True,
    )


def _read_answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "it was asked for"
    line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": "ServerError", "message": "Ray ended before it was ready"}
    if "ready" in answer:
        url: str = answer["ready"]
        return url
    kind = getattr(errors, answer["error"], ServerError)
    raise kind(answer["message"])


def _stop(process: subprocess.Popen[str]) -> None:
    """Let it answer what it admitted, and wait until nothing of it is left."""
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
