"""The API as a Ray Serve application, one replica a process. The only file that imports Ray."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve

from serving.http.api import make_api
from serving.port import check_port
from serving.runtime.predictor import Predictor
from store.malloc import keep_freed_memory
from store.registry.store import Store


class ServeConfig(BaseModel):
    """Arguments of the application, as `deploy/serve.yaml` gives them; with `keys`, only who has one is answered."""

    model_config = ConfigDict(extra="forbid")

    store: str
    catalogue: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    batch_invariant: bool = False
    keys: bool = False


@serve.deployment(max_ongoing_requests=256, max_queued_requests=1024)
@serve.ingress()
class Replica:
    """One process, one engine, every task of the store that stands on its backbone."""

    def __init__(self, settings: ServeConfig) -> None:
        keep_freed_memory()
        # Ray sets OMP_NUM_THREADS from the replica's num_cpus, which is a share and not this machine's cores.
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        self._store = Store.open(settings.store, catalogue=settings.catalogue)
        self._service = Predictor(
            self._store,
            backbone=settings.backbone,
            dtype=settings.dtype,
            device=settings.device,
            batch_invariant=settings.batch_invariant,
        )
        self._keys = settings.keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Ray would pickle an application made before the replica is; here it is made of what the replica holds.
        return make_api(self._service, self._store, keys=self._keys)

    def check_health(self) -> None:
        self._service.check()


def build(settings: ServeConfig) -> serve.Application:
    """Build the application; `serve deploy` calls it with the config's `args`."""
    return cast(serve.Application, Replica.bind(settings))  # type: ignore[attr-defined]  # made by the decorator


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
        serve.start(http_options={"host": host, "port": port})
        for prefix, settings in applications.items():
            serve.run(build(settings), name=names[prefix], route_prefix=prefix)
        yield
    finally:
        # Only what was started here: on a shared cluster, other applications go on.
        for name in names.values():
            serve.delete(name)
        ray.shutdown()
