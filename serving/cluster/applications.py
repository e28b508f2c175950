"""The applications of a plan on the Ray that this process is connected to: started, awaited, stopped."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import ray
from ray import serve as ray_serve
from ray.serve._private.api import _create_controller_and_proxy_refs
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import ControllerOptions
from ray.serve.context import _get_global_client, _set_global_client
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from serving.app import Replica
from serving.cluster import shared_ray
from serving.cluster.descendants import command_of, descendants
from serving.cluster.plan import HAPROXY, Replicas, ServerPlan
from serving.cluster.proxy_end import ending_proxy
from serving.config import ServeConfig
from store.errors import ServerError

DEPLOYMENT = cast(ray_serve.Deployment, Replica)
START_S = 300.0
POLL_S = 0.05
STATUS_S = 0.5
TARGET_ONGOING = 8
"""Where the number of replicas follows the load, another one starts above so many requests in each."""

DRAIN_S = 1.0
CLOSE_S = 1.5
REST_S = 0.2


class Applications:
    """A context: at its end the applications are no longer there, and all that they admitted is answered."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._started: list[str] = []
        # Made here and not part of the plan, which is an argument of this process that every user can list.
        self._session_secret = secrets.token_hex(32)

    def __enter__(self) -> Applications:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if self._plan.ray_address is not None:
            shared_ray.join(self._plan.ray_address)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._plan.ray_address is None:
            self._drain()
            return
        for name in self._started:  # only what was started here: on a shared cluster, other applications go on
            ray_serve.delete(name)
        shared_ray.leave()

    def start(self) -> str:
        """Start every application with its first replica; return the address at which all of them answered."""
        plan = self._plan
        proxies = _start_serve(plan)
        if plan.ray_address is not None:
            shared_ray.check_names(plan, _prefixes())
        self._started = [plan.name_of(prefix) for prefix in plan.applications]
        self._deploy(Replicas(1, 1))
        return self._await(proxies)

    def scale(self) -> None:
        """Go on to the number of replicas that the plan asks for: started together, they would delay the first."""
        if self._plan.replicas != Replicas(1, 1):
            self._deploy(self._plan.replicas)

    def _deploy(self, replicas: Replicas) -> None:
        targets = [
            ray_serve.RunTarget(
                self._application(fields, replicas), name=self._plan.name_of(prefix), route_prefix=prefix
            )
            for prefix, fields in self._plan.applications.items()
        ]
        ray_serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def _application(self, fields: Mapping[str, object], replicas: Replicas) -> ray_serve.Application:
        return _application({**fields, "session_secret": self._session_secret}, replicas)

    def _await(self, proxies: list[Any]) -> str:
        """Wait until Ray calls every application running and the address answers for it."""
        url = _address(self._plan)
        end = time.monotonic() + START_S
        asked = 0.0
        while time.monotonic() < end:
            ready, proxies = ray.wait(proxies, num_returns=len(proxies), timeout=0) if proxies else ([], [])
            ray.get(ready)  # raises where HAProxy did not start
            answered = all(_answers(f"{url}{prefix.rstrip('/')}") for prefix in self._plan.applications)
            # An answer of Ray takes as long as a tenth of the start's work: it is not asked all the time.
            if answered or time.monotonic() > asked + STATUS_S:
                asked = time.monotonic()
                if self._running() and answered:
                    return url
            time.sleep(POLL_S)
        raise ServerError(f"the replicas did not start within {START_S:.0f} seconds")

    def _running(self) -> bool:
        """Return whether Ray calls every application running; raise where a replica did not start."""
        found = ray_serve.status().applications
        for name in self._started:
            if name in found and found[name].status is ApplicationStatus.DEPLOY_FAILED:
                raise ServerError(f"the replicas of {name!r} did not start: {_reason(found[name])}")
        return all(name in found and found[name].status is ApplicationStatus.RUNNING for name in self._started)

    def _drain(self) -> None:
        """Accept no connection, then let every replica answer what it admitted and refuse the rest."""
        front = _ending_haproxy() if self._plan.ingress == HAPROXY else ending_proxy(DRAIN_S, REST_S)
        with front, suppress(Exception):  # a replica that has died has nothing to answer
            broadcasts = [
                ray_serve.get_deployment_handle(DEPLOYMENT.name, name).broadcast("close") for name in self._started
            ]
            for each in broadcasts:
                each.results(timeout_s=CLOSE_S)
        time.sleep(REST_S)  # the last answers leave


def _start_serve(plan: ServerPlan) -> list[Any]:
    """Start Serve; return what is there once its proxies are, or what says why they are not.

    `serve.start` would wait for them, and the first replica, which takes longest, may start beside them.
    """
    host = "127.0.0.1" if plan.ingress == HAPROXY else plan.host  # HAProxy itself gets the plan's, in its configuration
    options = {"host": host, "port": plan.port}
    if plan.ray_address is not None:
        ray_serve.start(http_options=options)
        return []
    controller, proxies = _create_controller_and_proxy_refs(options, None, None, None, ControllerOptions())
    _set_global_client(ServeControllerClient(controller))  # type: ignore[no-untyped-call]  # it has no annotations
    return proxies


def _application(fields: Mapping[str, object], replicas: Replicas) -> ray_serve.Application:
    options: dict[str, Any] = {"ray_actor_options": {"num_cpus": 0}}
    if replicas.fixed:
        options["num_replicas"] = replicas.least
    else:
        options["autoscaling_config"] = autoscaling(replicas)
    deployment = DEPLOYMENT.options(**options)
    deployment._version = "1"  # without one, each deployment gets another, and replaces the replicas of the one before
    return deployment.bind(ServeConfig.model_validate(fields))


def autoscaling(replicas: Replicas) -> dict[str, float]:
    """Return by which load Ray chooses the number of replicas."""
    return {
        "min_replicas": replicas.least,
        "max_replicas": replicas.most,
        "target_ongoing_requests": TARGET_ONGOING,
        "upscale_delay_s": 2.0,
        "downscale_delay_s": 30.0,
    }


def _prefixes() -> dict[str, str | None]:
    details = _client().get_serve_details()
    return {name: each["route_prefix"] for name, each in details["applications"].items()}


def _client() -> ServeControllerClient:
    client = _get_global_client()
    assert client is not None, "Serve has been started"
    return client


def _address(plan: ServerPlan) -> str:
    """Return where Serve listens: on a shared cluster, it may have been started with another port."""
    if plan.ray_address is None:
        host, port = plan.host, plan.port
    else:
        options = _client().http_config
        host, port = options.host, options.port
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return response.status == 200 and "status" in json.loads(response.read())
    except (OSError, ValueError, urllib.error.URLError):
        return False


@contextmanager
def _ending_haproxy() -> Iterator[None]:
    """Let it close its listeners, and end after its last answer."""
    front = _haproxies()
    for pid in front:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + DRAIN_S
    while front and time.monotonic() < end and _haproxies():
        time.sleep(POLL_S)
    yield


def _haproxies() -> Sequence[int]:
    return [pid for pid in descendants(os.getpid()) if command_of(pid)[:1] and command_of(pid)[0].endswith("/haproxy")]


def _reason(failed: ApplicationStatusOverview) -> str:
    """Return the line that names the error, from the traceback that Ray has of a replica."""
    messages = [failed.message, *(each.message for each in failed.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(":")[0]]
    return (named or lines or ["no reason given"])[-1]
