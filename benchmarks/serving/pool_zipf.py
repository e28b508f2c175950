"""What it costs that not every task fits in memory: p99 with a bounded adapter cache over p99 with all tasks resident.

Publishes --tasks LoRA tasks (rank 4, bfloat16) on the packaged backbone, once, into --folder. Two services answer the
same open-loop streams of images in turn: Poisson arrivals at --load of the engine's rate, which is measured as the
round begins, each for a task drawn by Zipf's law (exponent 1, ranks drawn at random over the tasks). One service keeps
--budget-mb of tasks in memory, the other all of them. Latency is from the arrival to the answer, in process: resolving,
decoding, loading where the task is not in memory, and waiting for the engine. Files are in the system's page cache, as
after a first day of service. Prints a table; JSON in benchmarks/results/pool_zipf.json.

    python -m benchmarks.serving.pool_zipf
"""

from __future__ import annotations

import argparse
import gc
import io
import random
import sys
import time
from bisect import bisect
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock

import torch
from PIL import Image

from benchmarks.serving.arrivals import Arrival, poisson_times, when_due
from benchmarks.support.figures import Goal, conclude, machine, spread, spread_of_ratios
from benchmarks.support.options import RESULTS, make_parser
from benchmarks.support.tasks import publish_lora
from serving.benchmark.quantiles import quantile
from serving.garbage import LongCollections
from serving.prediction import Prediction
from serving.runtime.adapter_cache import AdapterCache
from serving.runtime.predictor import Predictor
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store, Version
from store.weights.backbones import encode, load_backbone

RANK, CLASSES = 4, 20
EVERYTHING_NBYTES = 1 << 40
GOAL = 1.3


def main() -> None:
    options = parse()
    keep_freed_memory()
    refs = [f"task-{index}" for index in range(options.tasks)]
    with Store.open(options.folder, create=True) as store:
        build(store, refs)
        versions = [store.resolve(ref) for ref in refs]
        with Predictor(store, dtype=options.dtype) as bounded, Predictor(store, dtype=options.dtype) as whole:
            services = {"bounded": bounded, "all resident": whole}
            budgets = {"bounded": int(options.budget_mb * 1e6), "all resident": EVERYTHING_NBYTES}
            for name, service in services.items():
                prepare(service, versions, budget_nbytes=budgets[name])
            fill(whole, versions)
            gc.freeze()  # as a server does
            LongCollections()
            rates, report = measure(services, versions, options)
    ratio = spread_of_ratios(report["bounded"].p99_s, report["all resident"].p99_s)
    goals = [Goal("p99 with a bounded pool over all resident", ratio["median"], GOAL, most=True)]
    rows = {name: measured.summary() for name, measured in report.items()}
    for name, row in rows.items():
        print(f"{name:<14}", *(f"{key} {value}" for key, value in row.items()), sep="   ")
    settings = {key: getattr(options, key) for key in ("tasks", "budget_mb", "load", "requests", "rounds", "dtype")}
    figures = {"requests_per_s": spread(rates), "p99_ratio": ratio, **rows}
    conclude(options.out, {"machine": machine(), "settings": settings, **figures}, goals)


@dataclass
class Measured:
    """Of one service: latencies by round in seconds, how many requests had to load their task, and what is resident."""

    rounds: list[list[float]]
    loads: int
    resident: int
    resident_nbytes: int

    @property
    def p99_s(self) -> list[float]:
        return [quantile(latencies, 0.99) for latencies in self.rounds]

    def summary(self) -> dict[str, object]:
        every = [latency for latencies in self.rounds for latency in latencies]
        return {
            "p50_ms": round(quantile(every, 0.5) * 1e3, 2),
            "p99_ms": round(quantile(every, 0.99) * 1e3, 2),
            "share_loaded": round(self.loads / len(every), 4),
            "resident": self.resident,
            "resident_mb": round(self.resident_nbytes / 1e6, 1),
        }


def build(store: Store, refs: Sequence[str]) -> None:
    backbone = load_backbone(DEFAULT_BACKBONE)
    store.add_backbone(backbone.record, encode(backbone))
    known = {version.task for version in store.versions()}
    for index, ref in enumerate(refs):
        if ref not in known:
            publish_lora(store, ref, backbone, rank=RANK, classes=CLASSES, dtype=torch.bfloat16, seed=index)
        if index % 500 == 0:
            print(f"published {index} of {len(refs)}", file=sys.stderr)


def prepare(service: Predictor, versions: Sequence[Version], *, budget_nbytes: int) -> None:
    """Give the service its budget, and wait until it holds a lease on each version, as after a first day."""
    service.tasks.cache = AdapterCache(budget_nbytes=budget_nbytes)
    for version in versions:
        service.versions.use(version)
    while service.versions.status().without_lease:
        time.sleep(0.1)


def fill(service: Predictor, versions: Iterable[Version]) -> None:
    for version in versions:
        with closing(service.tasks.acquire(version)) as pin:
            pin.weights.result()


def capacity(service: Predictor, versions: Sequence[Version]) -> float:
    """Return how many images a second the service answers when all are there at once."""
    service.predict(versions[0].task, IMAGE)
    start = time.perf_counter()
    for (answer,) in [service.submit_many([version.task], IMAGE) for version in versions]:
        answer.result()
    return len(versions) / (time.perf_counter() - start)


def measure(
    services: dict[str, Predictor], versions: Sequence[Version], options: argparse.Namespace
) -> tuple[list[float], dict[str, Measured]]:
    """Return the arrivals a second in each round, and the measurements of each service."""
    draw = random.Random(0)
    weights = list(accumulate(1 / rank for rank in range(1, len(versions) + 1)))
    by_rank = draw.sample(range(len(versions)), len(versions))

    def some(count: int) -> list[int]:
        return [by_rank[bisect(weights, draw.random() * weights[-1])] for _ in range(count)]

    measured = {name: Measured([], 0, 0, 0) for name in services}
    fill(services["bounded"], [versions[task] for task in some(options.warm)])
    rates = []
    for index in range(options.rounds):
        rates.append(options.load * capacity(services["all resident"], versions[:64]))
        times = list(poisson_times(rates[-1], options.requests, draw))
        arrivals = [Arrival(at_s, task) for at_s, task in zip(times, some(options.requests), strict=True)]
        for name, service in services.items():
            before = service.tasks.cache.loads
            measured[name].rounds.append(drive(service, versions, arrivals))
            measured[name].loads += service.tasks.cache.loads - before
        print(f"round {index + 1} of {options.rounds}", file=sys.stderr)
    for name, service in services.items():
        measured[name].resident = len(service.tasks.cache.resident)
        measured[name].resident_nbytes = service.tasks.cache.nbytes
    return rates, measured


def drive(service: Predictor, versions: Sequence[Version], arrivals: Sequence[Arrival]) -> list[float]:
    """Send each at its time, from two threads as the API does, and return the latencies in seconds."""
    latencies: list[float] = []
    lock, sent = Lock(), []

    def send(ref: str, due: float) -> Future[Prediction]:
        (answer,) = service.submit_many([ref], IMAGE)

        def note(_: Future[Prediction]) -> None:
            latency = time.perf_counter() - due
            with lock:
                latencies.append(latency)

        answer.add_done_callback(note)
        return answer

    with ThreadPoolExecutor(2, "prepare") as workers:
        for arrival, due in when_due(arrivals):
            sent.append(workers.submit(send, versions[arrival.task].task, due))
        for submitted in sent:
            submitted.result().result()
    return latencies


def make_image() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(out, "PNG")
    return out.getvalue()


IMAGE = make_image()


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="pool_zipf.json")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--budget-mb", type=float, default=256)
    parser.add_argument("--load", type=float, default=0.6, help="share of the engine's measured rate")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=250, help="of each service in each round")
    parser.add_argument("--warm", type=int, default=20_000, help="draws that fill the bounded pool beforehand")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--folder", type=Path, default=RESULTS / "pool_zipf_store", help="kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
