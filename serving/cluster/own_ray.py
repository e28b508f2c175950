"""A Ray of this server's own: on this machine, on the loopback interface, with a token that only this user can read."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from serving.cluster import fork_client, haproxy, proxy_gate, refusal_log
from serving.cluster.plan import HAPROXY, PYTHON, ServerPlan
from store.errors import InvalidSettingError

SOCKET_NBYTES = 107
"""The longest path of a Unix socket."""

LONGEST = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest one below the folder: Ray's. HAProxy's, below a folder named by a node's 56 digits, is longer still."""

LONGEST_OF_HAPROXY = f"/h/{'0' * 56}/admin.sock.0000000.tmp"
CPUS = 64
NICENESS = "RAY_worker_niceness"
USER_THREAD = "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD"
REGISTER_S = "10"
"""A fork registers with Ray within a second, once the fork server is there; one that is lost is replaced after this.

Where the fork server itself takes longer to load, a worker that has waited so long is asked for again, and comes then.
"""


def make_folder(ingress: str = PYTHON) -> Path:
    """Make the private folder of this Ray; raise where the sockets in it would have too long a path."""
    longest = LONGEST_OF_HAPROXY if ingress == HAPROXY else LONGEST
    place = tempfile.gettempdir()
    room = SOCKET_NBYTES - max(len(longest), len(LONGEST)) - len("/ot-00000000")
    if len(os.fsencode(place)) > room:
        raise InvalidSettingError(
            f"the folder for temporary files, {place}, is too long for the sockets in it: "
            f"set TMPDIR to one of at most {room} bytes"
        )
    return Path(tempfile.mkdtemp(prefix="ot-", dir=place))


def environment(plan: ServerPlan, folder: Path) -> Mapping[str, str]:
    """Return the variables that every process of this Ray gets; they must be set before Ray is imported."""
    ingress = haproxy.environment(plan, folder) if plan.ingress == HAPROXY else python_proxy(plan, folder)
    forks = {"RAY_worker_register_timeout_seconds": REGISTER_S} if _may_fork(plan) else {}
    # Ray's own niceness, 15, lets replicas wait behind whatever else the machine runs. Its second event loop keeps user
    # code that blocks away from its own; ours does not block, and each request would cross both.
    preferred = {name: os.environ.get(name, "0") for name in (NICENESS, USER_THREAD)}
    return {**_private(folder), **refusal_log.counts_of(folder), **preferred, **forks, **ingress}


def _private(folder: Path) -> Mapping[str, str]:
    """Return the variables of a Ray that only this user can reach, with its token in the folder."""
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32), "utf-8")
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Despite its name: off, every process of Ray listens on 127.0.0.1 alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",  # nothing here takes the metrics
        # A replica that does not answer its health check does not answer a request to stop either.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_TMPDIR": str(folder),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }


def python_proxy(plan: ServerPlan, folder: Path) -> Mapping[str, str]:
    return {"RAY_SERVE_ENABLE_HA_PROXY": "0", **proxy_gate.environment(plan, folder)}


def start(plan: ServerPlan, folder: Path) -> None:
    """Start Ray in the folder and connect to it; its processes end with this one."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ.update(environment(plan, folder))
    if plan.ingress == HAPROXY:
        haproxy.write_files(plan, folder)
    setup_worker_path = _start_fork_server(folder) if _may_fork(plan) else None
    # Ray reads its settings as it is imported.
    importlib.import_module("ray")

    # Serve's modules are loaded while this thread waits for Ray's processes.
    threading.Thread(target=importlib.import_module, args=("ray.serve",), daemon=True).start()
    _start_node(folder, cpus=CPUS, setup_worker_path=setup_worker_path)


def start_for_tasks(folder: Path, *, cpus: int) -> None:
    """Start Ray without Serve, for so many tasks of one core at a time, and connect to it."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN"):
        os.environ.pop(name, None)
    os.environ.update(_private(folder))
    _start_node(folder, cpus=cpus, setup_worker_path=None)


def _start_node(folder: Path, *, cpus: int, setup_worker_path: str | None) -> None:
    import ray
    from ray._private.parameter import RayParams

    from serving.cluster.head_node import HeadNode

    parameters = RayParams(
        node_ip_address="127.0.0.1",
        num_cpus=cpus,  # Serve places replicas by it; how many there are is decided by the plan
        num_gpus=None,
        include_log_monitor=False,  # type: ignore[arg-type]  # its annotation is wrong
        no_monitor=True,
        temp_dir=str(folder),
        setup_worker_path=setup_worker_path,  # None: Ray's own
    )
    node = HeadNode(parameters, head=True, shutdown_at_exit=False, spawn_reaper=True)
    ray.init(address=node.address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR)


def _may_fork(plan: ServerPlan) -> bool:
    """CUDA does not outlive a fork, and neither do libraries of macOS."""
    return sys.platform == "linux" and all(fields["device"] == "cpu" for fields in plan.applications.values())


def _start_fork_server(folder: Path) -> str:
    """Start what forks the workers of this Ray; return the program that stands in the place of each."""
    os.environ[fork_client.SETTING] = str(folder / "forks")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process with several threads should not be forked
    subprocess.Popen([sys.executable, "-m", "serving.cluster.fork_server"], env=environment, stdin=subprocess.DEVNULL)
    return fork_client.__file__
