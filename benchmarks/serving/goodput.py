"""Answers within a latency target, ours against Ray's `@serve.batch`, with the same engine in the same process.

A real Ray Serve replica holds one engine, our engine loop and a `@serve.batch` method that runs the engine's `forward`
on each batch in a thread. Within the replica, images arrive (open loop) at --loads of what the engine does with eight
mixed images at once, Poisson or in bursts of 8 on average, for sixteen tasks of depths 4 to 12; nothing but the
scheduling differs. The target is --target times one full-depth image alone, and is what our requests give as their
deadline; "without deadlines", they give none. Load and target follow the machine: both are measured in each round.
Ray's is run with each of --ray, and the best at each load counts. Subjects take turns on the same arrivals. Prints a
table; JSON in benchmarks/results/goodput.json.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve
from torch import Tensor

from benchmarks.serving.arrivals import Arrival, bursty, poisson
from benchmarks.support.figures import RESULTS, Goal, machine, print_goals, quantile, spread, write
from benchmarks.support.models import random_vit_base
from serving.benchmark.subjects import random_task
from serving.engine.engine import Engine
from serving.prediction import Prediction
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import OverloadedError
from store.malloc import keep_freed_memory
from store.weights.backbones import DEFAULT_BACKBONE, Backbone, load_backbone

GOAL = 1.5
TASKS, SHALLOWEST = 16, 4
OURS, WITHOUT = "ours", "ours, without deadlines"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = {"poisson": poisson, "bursty": bursty}
DROPPED = float("inf")


@serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 2})
class Subjects:
    """One engine, and the two ways to feed it."""

    def __init__(self, backbone: Backbone, dtype: str, threads: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(threads)
        p, blocks = backbone.record.id.preprocessing, backbone.record.blocks
        self._engine = Engine(backbone, dtype=DTYPES[dtype])
        self._image = torch.randn(3, p.height, p.width)
        depths = [SHALLOWEST + seed % (blocks - SHALLOWEST + 1) for seed in range(TASKS)]
        self._tasks = [
            random_task(backbone, depth=depth, dtype=DTYPES[dtype], device="cpu", seed=seed)
            for seed, depth in enumerate(depths)
        ]
        self._loop = EngineLoop(self._engine, Scheduler())
        self._thread = ThreadPoolExecutor(1)

    def calibrate(self, repeats: int) -> tuple[float, float]:
        """Return the seconds of one full-depth image alone, and of one among eight mixed ones."""
        deepest = max(range(TASKS), key=lambda task: self._tasks[task].depth)

        def seconds(batch: Sequence[int]) -> float:
            start = time.perf_counter()
            self._forward(batch)
            return time.perf_counter() - start

        for _ in range(3):
            seconds(range(TASKS))
        alone = [seconds([deepest]) for _ in range(repeats)]
        mixed = [seconds(range(start, start + 8)) for _ in range(repeats) for start in (0, 8)]
        return quantile(alone, 0.5), statistics.fmean(mixed) / 8

    async def play(self, subject: str, arrivals: list[Arrival], target_s: float) -> list[float]:
        """Let the images arrive; return their latencies in seconds from when each was due."""
        ask = self._subject(subject, target_s)
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.01
        latencies = [DROPPED] * len(arrivals)

        async def one(index: int, arrival: Arrival) -> None:
            try:
                await ask(arrival.task)
            except OverloadedError:
                return
            latencies[index] = loop.time() - start - arrival.at_s

        waiting = []
        for index, arrival in enumerate(arrivals):
            await asyncio.sleep(start + arrival.at_s - loop.time())
            waiting.append(asyncio.ensure_future(one(index, arrival)))
        await asyncio.gather(*waiting)
        return latencies

    def _subject(self, name: str, target_s: float) -> Callable[[int], Awaitable[object]]:
        if name in (OURS, WITHOUT):
            return partial(self._ours, target_s=target_s if name == OURS else None)
        rows, wait_ms = name.split()[1].split("x")
        self._batched.set_max_batch_size(int(rows))  # type: ignore[attr-defined]  # made by the decorator
        self._batched.set_batch_wait_timeout_s(float(wait_ms) / 1000)  # type: ignore[attr-defined]
        return self._batched  # type: ignore[return-value]  # it takes one and gives one

    async def _ours(self, task: int, *, target_s: float | None) -> Prediction:
        deadline = None if target_s is None else time.monotonic() + target_s
        prediction = PendingPrediction(str(task), 1, self._tasks[task])
        self._loop.submit(PredictionRequest(self._image, (prediction,), deadline))
        return await asyncio.wrap_future(prediction.future)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def _batched(self, tasks: list[int]) -> list[Tensor]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._forward, tasks)

    def _forward(self, tasks: Sequence[int]) -> list[Tensor]:
        images = self._image.expand(len(tasks), -1, -1, -1)
        return self._engine.forward(images, [self._tasks[task] for task in tasks])


def measure(name: str, backbone: Backbone, options: argparse.Namespace) -> list[dict[str, Any]]:
    handle = serve.run(Subjects.bind(backbone, options.dtype, options.threads), name="goodput", route_prefix=None)
    subjects = [OURS, WITHOUT, *(f"serve.batch {setting}" for setting in options.ray)]
    results = []
    for kind, load in [(kind, load) for kind in KINDS for load in options.loads]:
        shares: dict[str, list[float]] = {subject: [] for subject in subjects}
        medians: dict[str, list[float]] = {subject: [] for subject in subjects}
        images_s: list[float] = []
        for index in range(options.rounds):
            alone_s, each_s = handle.calibrate.remote(options.repeats).result()
            images_s.append(alone_s)
            target_s = options.target * alone_s
            arrivals = KINDS[kind](load / each_s, options.requests, range(TASKS), random.Random(index))
            for subject in random.Random(index).sample(subjects, len(subjects)):
                latencies = handle.play.remote(subject, arrivals, target_s).result()
                shares[subject].append(statistics.fmean(latency <= target_s for latency in latencies))
                medians[subject].append(quantile(latencies, 0.5) / alone_s)
        best = max(subjects[2:], key=lambda subject: statistics.median(shares[subject]))
        ratios = {subject: over(shares[subject], shares[best], 1 / options.requests) for subject in (OURS, WITHOUT)}
        print(f"{name}, {kind}, load {load}: " + ", ".join(
            f"{subject} {statistics.median(share):.2f}" for subject, share in shares.items()
        ), file=sys.stderr)  # fmt: skip
        results.append({
            "backbone": name, "arrivals": kind, "load": load,
            "one_image_ms": spread([1000 * seconds for seconds in images_s]), "best_of_ray": best,
            "share_within_target": {subject: spread(share) for subject, share in shares.items()},
            "goodput_over_best_of_ray": {subject: spread(ratio) for subject, ratio in ratios.items()},
            "p50_over_one_image": {subject: spread(median) for subject, median in medians.items()},
        })  # fmt: skip
    serve.delete("goodput")
    return results


def over(mine: Sequence[float], theirs: Sequence[float], least: float) -> list[float]:
    """Divide round by round; where theirs has none at all, as though it had one."""
    return [share / max(other, least) for share, other in zip(mine, theirs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=150, help="images a round")
    parser.add_argument("--repeats", type=int, default=4, help="of the calibration that begins each round")
    parser.add_argument("--target", type=float, default=4.0, help="times one full-depth image alone")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 0.95])
    parser.add_argument(
        "--ray", nargs="+", default=["16x10", "8x10", "4x2", "1x0"], help="ROWSxWAIT_MS of @serve.batch"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="one round of 30 images, on the packaged backbone alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "goodput.json")
    options = parser.parse_args()
    backbones = {DEFAULT_BACKBONE: load_backbone(DEFAULT_BACKBONE)}
    if options.quick:
        options.rounds, options.requests, options.repeats = 1, 30, 3
    else:
        backbones["vit_base_patch16_224"] = random_vit_base()
    ray.init(
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=4,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_WAIT_POLICY": "PASSIVE"}},
    )  # fmt: skip
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled")  # the load is made within the replica: no HTTP
    results = [each for name, backbone in backbones.items() for each in measure(name, backbone, options)]
    ray.shutdown()
    goals = [
        Goal(f"goodput / serve.batch, {each['backbone']}, {each['arrivals']}, load {each['load']}",
             each["goodput_over_best_of_ray"][OURS]["median"], GOAL)
        for each in results
    ]  # fmt: skip
    print_goals(goals)
    asked = {key: getattr(options, key) for key in ("rounds", "requests", "target", "loads", "ray", "dtype", "threads")}
    versions = {"torch": torch.__version__, "ray": ray.__version__}
    write(options.out, {**machine(), **versions, **asked, "results": results}, goals=goals)


if __name__ == "__main__":
    main()
