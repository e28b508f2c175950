"""What each schedule makes of the same load: p50 and p99 of its answers, over those of first come, first served.

One engine, in process, decoded images, sixteen tasks of depths 4 to 12. Loads: --clients that each ask for a random
task as soon as their last answer is there; Poisson arrivals and bursts of 8 on average, at --load of the rate at which
the engine runs eight mixed images at once; --burst images at one time. Each lasts about --seconds. Schedules take turns
on the same requests, and a ratio compares within one round. First come, first served takes all that wait into one
batch. Prints a table; JSON in benchmarks/results/schedules.json.

    python -m benchmarks.serving.schedules
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from queue import SimpleQueue

import torch

from benchmarks.serving.arrivals import Arrival, bursty, poisson, when_due
from benchmarks.serving.engine_tasks import EngineTasks
from benchmarks.support.figures import Goal, conclude, machine, spread, spread_of_ratios, spread_text
from benchmarks.support.models import DTYPES, add_engine_options, backbones
from benchmarks.support.options import make_parser
from serving.benchmark.quantiles import quantile
from serving.prediction import Prediction
from serving.runtime.engine_loop import EngineLoop
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, SCHEDULES, Scheduler
from store.malloc import keep_freed_memory
from store.weights.backbones import Backbone

TASKS, SHALLOWEST, TOGETHER, WARM_UP = 16, 4, 8, 24
P50_GOAL, P99_GOAL = 0.8, 1.5


@dataclass(frozen=True)
class Row:
    """What a schedule makes of a load: figures, and their ratios to those of first come, first served."""

    backbone: str
    load: str
    schedule: str
    spreads: dict[str, dict[str, float]]

    def goal(self, figure: str, bound: float) -> Goal:
        ratio = self.spreads[f"{figure}_over_first_come"]["median"]
        return Goal(f"{figure} of {self.load} / first come, first served, {self.backbone}", ratio, bound, most=True)


@dataclass
class Played:
    """Latencies of a load in seconds, and how long it took."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def figures(self) -> dict[str, float]:
        latencies = self.latencies
        return {
            "p50_ms": 1e3 * quantile(latencies, 0.5),
            "p99_ms": 1e3 * quantile(latencies, 0.99),
            "per_s": len(latencies) / self.seconds,
        }


class Subject(EngineTasks):
    """An engine and its tasks, under a load that each schedule gets in turn."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype) -> None:
        depths = [SHALLOWEST + index % (backbone.record.blocks - SHALLOWEST + 1) for index in range(TASKS)]
        super().__init__(backbone, dtype, depths)

    def rate(self) -> float:
        """Return how many images a second the engine runs, eight mixed ones at once."""
        seconds = []
        for start in range(0, 4 * TOGETHER, TOGETHER):
            tasks = [self.tasks[(start + index) % TASKS] for index in range(TOGETHER)]
            before = time.perf_counter()
            self.engine.forward(self.image.expand(TOGETHER, -1, -1, -1), tasks)
            seconds.append(time.perf_counter() - before)
        return TOGETHER / min(seconds)

    def play(self, schedule: str, load: Callable[[EngineLoop], Played]) -> Played:
        """Return what a load gets of a new engine loop that has learnt what a block costs."""
        loop = EngineLoop(self.engine, Scheduler(schedule=schedule, max_waiting=1_000_000))
        for index in range(0, WARM_UP, 4):
            wait([self.send(loop, (index + number) % TASKS) for number in range(1 + index % 4)])
        played = load(loop)
        loop.close()
        return played

    def closed(self, loop: EngineLoop, tasks: Sequence[int], clients: int) -> Played:
        """Answer these tasks in turn to clients of which each waits for its answer; the first tenth does not count."""
        played, answered, sent = Played(), SimpleQueue[float](), iter(tasks)

        def ask() -> bool:
            task = next(sent, None)
            if task is None:
                return False
            asked = time.perf_counter()
            self.send(loop, task).add_done_callback(lambda _: answered.put(time.perf_counter() - asked))
            return True

        for _ in range(clients):
            ask()
        begin = time.perf_counter()
        for index in range(len(tasks)):
            played.latencies.append(answered.get())
            ask()
            if index == len(tasks) // 10:
                played.latencies, begin = [], time.perf_counter()
        played.seconds = time.perf_counter() - begin
        return played

    def open(self, loop: EngineLoop, arrivals: Sequence[Arrival]) -> Played:
        """Send the images as they come; a latency counts from when each was due."""
        played, sent, begin = Played(), [], time.perf_counter()

        def note(due: float, _: Future[Prediction]) -> None:
            played.latencies.append(time.perf_counter() - due)

        for arrival, due in when_due(arrivals):
            answer = self.send(loop, arrival.task)
            answer.add_done_callback(partial(note, due))
            sent.append(answer)
        wait(sent)
        while len(played.latencies) < len(sent):
            time.sleep(0.001)
        played.seconds = time.perf_counter() - begin
        return played


def loads(subject: Subject, options: argparse.Namespace, seed: int) -> dict[str, Callable[[EngineLoop], Played]]:
    """Return the loads of a round, by name."""
    draw, rate, tasks = random.Random(seed), subject.rate(), range(TASKS)
    count = max(40, round(options.seconds * rate))
    asked = [draw.choice(tasks) for _ in range(count)]
    steady = poisson(options.load * rate, round(options.load * count), tasks, draw)
    uneven = bursty(options.load * rate, round(options.load * count), tasks, draw)
    at_once = [Arrival(0.0, draw.choice(tasks)) for _ in range(min(options.burst, count))]
    return {
        f"{options.clients} clients": lambda loop: subject.closed(loop, asked, options.clients),
        "poisson": lambda loop: subject.open(loop, steady),
        "bursty": lambda loop: subject.open(loop, uneven),
        "burst": lambda loop: subject.open(loop, at_once),
    }


def measure(name: str, backbone: Backbone, options: argparse.Namespace) -> list[Row]:
    subject = Subject(backbone, DTYPES[options.dtype])
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    for index in range(options.rounds):
        order = random.Random(index).sample(sorted(SCHEDULES), len(SCHEDULES))
        for load, play in loads(subject, options, index).items():
            for schedule in order:
                figures = subject.play(schedule, play).figures
                rounds.setdefault(load, {}).setdefault(schedule, []).append(figures)
        print(f"{name}: round {index + 1} of {options.rounds}", file=sys.stderr)
    return [
        Row(name, load, schedule, spreads(by_schedule[schedule], by_schedule["first-come"]))
        for load, by_schedule in rounds.items()
        for schedule in SCHEDULES
    ]


def spreads(own: list[dict[str, float]], first_come: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the spread of each figure, and of its ratios to that of first come, first served in the same round."""
    values = {key: [each[key] for each in own] for key in own[0]}
    base = {key: [each[key] for each in first_come] for key in own[0]}
    ratios = {f"{key.partition('_')[0]}_over_first_come": spread_of_ratios(values[key], base[key]) for key in values}
    return {key: spread(each) for key, each in values.items()} | ratios


def main() -> None:
    parser = make_parser(__doc__, out="schedules.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load with each schedule")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--burst", type=int, default=2000, help="images at one time, at most those of --seconds")
    parser.add_argument("--backbone", help="one of the two alone, by its name")
    add_engine_options(parser)
    parser.add_argument("--quick", action="store_true", help="one short round, on the packaged backbone alone")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.rounds, options.seconds, options.burst = 1, 0.3, 60
    rows: list[Row] = []
    goals: list[Goal] = []
    for name, backbone in backbones(packaged_alone=options.quick).items():
        if options.backbone in {None, name}:
            rows += measure(name, backbone, options)
    for row in rows:
        texts = (f"{key} {spread_text(each, '.2f')}" for key, each in row.spreads.items())
        print(f"{row.backbone:<22} {row.load:<11} {row.schedule:<11}", *texts, sep="  ")
        if row.schedule == DEFAULT_SCHEDULE and row.load == f"{options.clients} clients":
            goals += [row.goal("p50", P50_GOAL), row.goal("p99", P99_GOAL)]
    settings = {
        key: getattr(options, key) for key in ("rounds", "seconds", "clients", "load", "burst", "dtype", "threads")
    }
    conclude(
        options.out,
        {**machine(), "torch": torch.__version__, **settings, "results": [asdict(row) for row in rows]},
        goals,
    )


if __name__ == "__main__":
    main()
