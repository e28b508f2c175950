"""The two ways that Ray Serve documents: a PEFT model a task by `@serve.multiplexed`, one mixed by `@serve.batch`.

A replica a core with one thread each: on two cores that measured better than one replica with two threads.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import ray
import torch
from ray import serve
from starlette.requests import Request

from benchmarks.serving.rivals.models import MergedTask, MixedTasks, PeerFiles

T = TypeVar("T")
ROWS, WAIT_S = 16, 0.005
HEALTH = {"status": "ok"}


class Replica:
    """The files, and a thread that computes while the event loop takes requests."""

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        self.files = PeerFiles(folder)
        self._thread = ThreadPoolExecutor(1)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


@serve.deployment(max_ongoing_requests=256)
class Multiplexed(Replica):
    """Each task is a model of its own; the id comes in the header that Ray names."""

    @serve.multiplexed(max_num_models_per_replica=1000)
    async def load(self, task: str) -> MergedTask:
        return await self.run(MergedTask, self.files, task)

    async def __call__(self, request: Request) -> dict[str, object]:
        if request.method == "GET":
            return HEALTH
        data = await request.body()
        model = await self.load(serve.get_multiplexed_model_id())
        return {"label": await self.run(lambda: model.predict([self.files.decode(data)])[0])}


@serve.deployment(max_ongoing_requests=256)
class Batched(Replica):
    """All tasks are adapters of one model; the task comes in the path."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._model = MixedTasks(self.files)

    @serve.batch(max_batch_size=ROWS, batch_wait_timeout_s=WAIT_S)
    async def predict(self, asked: list[tuple[str, bytes]]) -> list[int]:
        def work() -> list[int]:
            return self._model.predict([task for task, _ in asked], [self.files.decode(data) for _, data in asked])

        return await self.run(work)

    async def __call__(self, request: Request) -> dict[str, object]:
        if request.method == "GET":
            return HEALTH
        task = request.url.path.rpartition("/")[2]
        return {"label": await self.predict((task, await request.body()))}  # type: ignore[arg-type]  # by the decorator


def main() -> None:
    """Serve both of a folder until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    cores = len(os.sched_getaffinity(0))
    for name, deployment in (("multiplexed", Multiplexed), ("batch", Batched)):
        replicas = deployment.options(num_replicas=cores, ray_actor_options={"num_cpus": 0.1})
        serve.run(replicas.bind(options.folder), name=name, route_prefix=f"/{name}")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
