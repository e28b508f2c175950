"""The API as a Ray Serve application, one replica a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import ray
from ray import serve as ray_serve

from serving.addresses import check_shared
from serving.config import ServeConfig
from serving.garbage import LongCollections

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serving.telemetry.snapshot import PeerSnapshots, Snapshot

log = logging.getLogger(__name__)

MAX_ONGOING = 1024
"""Requests that one replica holds at a time, above the bound of its own queue, which refuses with a reason."""

HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 1.0, 2.5
"""Ray replaces a replica after three checks without an answer: a stuck one within eight seconds."""

ASK_S = 2.0
"""How long a replica has to tell what it counted."""

STOP_S = 20.0
"""Time that a replica has to answer what it admitted before it is killed."""


@ray_serve.deployment(
    max_ongoing_requests=MAX_ONGOING,
    max_queued_requests=MAX_ONGOING,
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_timeout_s=STOP_S,
    graceful_shutdown_wait_loop_s=0.2,
    logging_config={"enable_access_log": False},
)
@ray_serve.ingress()
class Replica:
    """One process, one engine, every task of the store that uses its backbone."""

    def __init__(self, settings: ServeConfig) -> None:
        # The collector would look through what the imports below make again and again: a fifth of their time.
        gc.disable()
        check_shared(settings.store, settings.catalogue, nodes=count_nodes())
        # torch is loaded here, in the replica, and not in the processes that build the application and watch over it.
        from serving.replica import ReplicaProcess

        self._process = ReplicaProcess(settings, name=ray_serve.get_replica_context().replica_id.unique_id)
        gc.freeze()  # all of it stays: no collection during a request looks through it
        gc.enable()
        LongCollections()

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Ray would pickle an application made before the replica is; here it is made of what the replica holds.
        return self._process.api(ask_replicas)

    async def snapshot(self) -> Snapshot:
        """Return what this replica knows of itself; on the event loop, which counts."""
        return self._process.snapshot()

    def check_health(self) -> None:
        self._process.check()

    async def close(self) -> None:
        """Refuse what comes from now on, and return once what is queued is answered."""
        await asyncio.to_thread(self._process.close)


def count_nodes() -> int:
    """Return on how many machines of this cluster a replica may run; a head that lends no core runs none."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())  # type: ignore[no-untyped-call]


async def ask_replicas() -> PeerSnapshots:
    """Ask all replicas of this application, wherever they run, for their snapshots."""
    from serving.telemetry.snapshot import PeerSnapshots

    context = ray_serve.get_replica_context()
    handle = ray_serve.get_deployment_handle(context.deployment, context.app_name)
    try:
        answers = await handle.broadcast("snapshot").results_async(timeout_s=ASK_S, return_exceptions=True)
    except Exception:  # of Ray, whose errors have no common base: the replica answers for itself
        log.warning("the other replicas were not asked for their statistics", exc_info=True)
        return PeerSnapshots([], missing=0)
    snapshots = [answer for answer in answers if not isinstance(answer, BaseException)]
    return PeerSnapshots(snapshots, missing=len(answers) - len(snapshots))


def build(args: ServeConfig | Mapping[str, object]) -> ray_serve.Application:
    """Build the application; `serve deploy` calls it with the `args` of its file, as they stand there."""
    settings = ServeConfig.model_validate(args)
    if settings.session_secret is None:
        settings = settings.model_copy(update={"session_secret": secrets.token_hex(32)})
    return cast(ray_serve.Application, Replica.bind(settings))  # type: ignore[attr-defined]  # by the decorator
