"""What deep tasks cost a shallow one: p50 of a depth-4 task while depth-12 tasks load the engine, over its solo p50.

One engine, in process, decoded images. The load is open: Poisson arrivals over eight deep tasks, at --load of the rate
at which the engine runs one deep image at a time. The shallow task's images come at random times, at --probes-load of
its own rate. Rounds alternate between without and with the load. The load follows the machine: what an image takes is
measured in each round, and a ratio compares within one round. Prints a table; JSON in
benchmarks/results/short_tasks.json.

    python -m benchmarks.serving.short_tasks
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from concurrent.futures import wait
from typing import cast

import torch

from benchmarks.serving.arrivals import Arrival, poisson, when_due
from benchmarks.serving.engine_tasks import EngineTasks
from benchmarks.support.figures import Goal, conclude, machine, spread
from benchmarks.support.models import DTYPES, add_engine_options, backbones
from benchmarks.support.options import make_parser
from serving.benchmark.quantiles import quantile
from serving.runtime.engine_loop import EngineLoop
from serving.scheduling.scheduler import Scheduler
from store.malloc import keep_freed_memory
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights

GOAL = 1.3
SHALLOW, DEEP_TASKS = 4, 8
WARM_UP = 5


class Subject(EngineTasks):
    """An engine and its tasks, the shallow one first."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype) -> None:
        super().__init__(backbone, dtype, [SHALLOW, *[backbone.record.blocks] * DEEP_TASKS])

    def seconds_of(self, task: TaskWeights, repeats: int) -> float:
        """Return the median time of one image alone, without a scheduler."""
        seconds = []
        for _ in range(repeats + WARM_UP):
            start = time.perf_counter()
            self.engine.forward(self.image[None], [task])
            seconds.append(time.perf_counter() - start)
        return quantile(seconds[WARM_UP:], 0.5)

    def play(self, arrivals: list[Arrival]) -> dict[int, list[float]]:
        """Send the images as they come; return the latencies by task, in seconds from when each was due."""
        latencies: dict[int, list[float]] = {task: [] for task in range(len(self.tasks))}
        loop = EngineLoop(self.engine, Scheduler())
        for task in (0, 1) * WARM_UP:
            self.send(loop, task).result()
        sent = []
        for arrival, due in when_due(arrivals):
            answer = self.send(loop, arrival.task)
            times = latencies[arrival.task]
            answer.add_done_callback(lambda _, due=due, times=times: times.append(time.perf_counter() - due))
            sent.append(answer)
        wait(sent)
        loop.close()
        return latencies


def measure(name: str, backbone: Backbone, options: argparse.Namespace) -> dict[str, object]:
    subject = Subject(backbone, DTYPES[options.dtype])
    ratios, tails, deep_ratios, deep_ms, shallow_ms = [], [], [], [], []
    for index in range(options.rounds):
        draw = random.Random(index)
        deep_s, shallow_s = (subject.seconds_of(subject.tasks[task], 5) for task in (1, 0))
        deep_ms.append(1000 * deep_s)
        shallow_ms.append(1000 * shallow_s)
        probes = poisson(options.probes_load / shallow_s, options.probes, [0], draw)
        alone = subject.play([Arrival(4 * shallow_s * number, 0) for number in range(options.probes)])[0]
        count = max(1, round(probes[-1].at_s * options.load / deep_s))
        load = poisson(options.load / deep_s, count, range(1, DEEP_TASKS + 1), draw)
        loaded = subject.play(sorted(probes + load, key=lambda arrival: arrival.at_s))
        ratios.append(quantile(loaded[0], 0.5) / quantile(alone, 0.5))
        tails.append(quantile(loaded[0], 0.99) / quantile(alone, 0.5))
        deep = [seconds for task, times in loaded.items() if task for seconds in times]
        deep_ratios.append(quantile(deep, 0.5) / deep_s)
        print(f"{name}: round {index + 1}: p50 {ratios[-1]:.2f}, p99 {tails[-1]:.2f} of solo", file=sys.stderr)
    return {
        "backbone": name,
        "deep_image_ms": spread(deep_ms),
        "shallow_image_ms": spread(shallow_ms),
        "shallow_p50_over_solo_p50": spread(ratios),
        "shallow_p99_over_solo_p50": spread(tails),
        "deep_p50_over_one_image": spread(deep_ratios),
    }


def main() -> None:
    parser = make_parser(__doc__, out="short_tasks.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--probes", type=int, default=40, help="images of the shallow task a round")
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--probes-load", type=float, default=0.04)
    add_engine_options(parser)
    parser.add_argument("--quick", action="store_true", help="one round of 20 images, on the packaged backbone alone")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    if options.quick:
        options.rounds, options.probes, options.probes_load = 1, 20, 0.1
    chosen = backbones(packaged_alone=options.quick)
    results = [measure(name, backbone, options) for name, backbone in chosen.items()]
    goals = []
    for result in results:
        ratio = cast(dict[str, float], result["shallow_p50_over_solo_p50"])["median"]
        goals.append(Goal(f"depth-4 p50 under load / solo, {result['backbone']}", ratio, GOAL, most=True))
    settings = {key: getattr(options, key) for key in ("rounds", "probes", "load", "probes_load", "dtype", "threads")}
    conclude(options.out, {**machine(), "torch": torch.__version__, **settings, "results": results}, goals)


if __name__ == "__main__":
    main()
