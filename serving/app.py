"""The API as a Ray Serve application, one replica a process. The only file that imports Ray."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve as ray_serve

from serving.addresses import absolute_catalogue, absolute_store
from serving.http.api import make_api
from serving.port import check_port
from serving.runtime.predictor import Predictor
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, check_schedule
from store.malloc import keep_freed_memory
from store.registry.store import Store


class ServeConfig(BaseModel):
    """Arguments of the application, as `deploy/serve.yaml` gives them; with `keys`, every request needs an API key."""

    model_config = ConfigDict(extra="forbid")

    store: str
    catalogue: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    batch_invariant: bool = False
    schedule: str = DEFAULT_SCHEDULE
    keys: bool = False


@ray_serve.deployment(max_ongoing_requests=256, max_queued_requests=1024)
@ray_serve.ingress()
class Replica:
    """One process, one engine, every task of the store that uses its backbone."""

    def __init__(self, settings: ServeConfig) -> None:
        keep_freed_memory()
        # Ray sets OMP_NUM_THREADS from the replica's num_cpus, which is a share and not this machine's cores.
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        self._store = Store.open(settings.store, catalogue=settings.catalogue)
        self._predictor = Predictor(
            self._store,
            backbone=settings.backbone,
            dtype=settings.dtype,
            device=settings.device,
            batch_invariant=settings.batch_invariant,
            schedule=settings.schedule,
        )
        self._keys = settings.keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Ray would pickle an application made before the replica is; here it is made of what the replica holds.
        return make_api(self._predictor, self._store, keys=self._keys)

    def check_health(self) -> None:
        self._predictor.check()


def build(settings: ServeConfig) -> ray_serve.Application:
    """Build the application; `serve deploy` calls it with the config's `args`."""
    return cast(ray_serve.Application, Replica.bind(settings))  # type: ignore[attr-defined]  # by the decorator


def serve(
    store_url: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8265,
    catalogue: str | None = None,
    backbone: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    batch_invariant: bool = False,
    schedule: str = DEFAULT_SCHEDULE,
    keys: bool = False,
) -> AbstractContextManager[None]:
    """Return a context in which every task of the store that uses the backbone is served over HTTP.

    Without `backbone`, the store's only one; without `threads`, one for each core. With `keys`, every request needs
    an API key; otherwise everyone may predict and read. `schedule` is stretch, least-work or first-come
    (docs/engine.md). Raises an error of the store where it cannot be opened, and on entering `PortTakenError`; see
    `running`.
    """
    check_schedule(schedule)
    Store.open(store_url, catalogue=catalogue).close()
    config = ServeConfig(
        store=absolute_store(store_url),
        catalogue=absolute_catalogue(catalogue),
        backbone=backbone,
        dtype=dtype,
        device=device,
        threads=threads,
        batch_invariant=batch_invariant,
        schedule=schedule,
        keys=keys,
    )
    return running({"/": config}, host=host, port=port)


@contextmanager
def running(applications: dict[str, ServeConfig], *, host: str, port: int) -> Iterator[None]:
    """Serve each application under its route prefix until the block ends, on this machine or on RAY_ADDRESS's cluster.

    Raises `PortTakenError` before anything is started.
    """
    check_port(host, port)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    names = {prefix: prefix.strip("/") or "onetrunk" for prefix in applications}
    try:
        ray_serve.start(http_options={"host": host, "port": port})
        targets = [
            ray_serve.RunTarget(build(settings), name=names[prefix], route_prefix=prefix)
            for prefix, settings in applications.items()
        ]
        ray_serve.run_many(targets)  # replicas start side by side
        yield
    finally:
        # Only what was started here: on a shared cluster, other applications go on.
        with ThreadPoolExecutor(len(names)) as pool:  # each waits until its replica has ended
            list(pool.map(ray_serve.delete, names.values()))
        ray.shutdown()
