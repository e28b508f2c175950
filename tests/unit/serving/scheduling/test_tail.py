"""Clients that each wait for their answer: half of them are answered soon, and none much later than in order."""

from __future__ import annotations

import random
from bisect import bisect_right

import pytest
from support.simulated_engine import SimulatedEngine, scheduled

from serving.benchmark.quantiles import quantile
from serving.scheduling.scheduler import Scheduler

CLIENTS, ANSWERS, READING_S = 16, 1000, 0.5e-3
DEPTHS = [4 + index % 9 for index in range(16)]


def latencies(schedule: str, fixed: float, per_row: float) -> list[float]:
    """Of clients that ask for a random task once their last answer is there and they have read it."""
    draw, asked = random.Random(0), dict[str, float]()
    engine = SimulatedEngine(Scheduler(schedule=schedule), fixed=fixed, per_row=per_row, per_call=2e-4)
    coming = [0.0] * CLIENTS
    while len(engine.ended) < ANSWERS:
        for _ in range(bisect_right(coming, engine.now)):
            task, at_s = draw.randrange(len(DEPTHS)), coming.pop(0)
            asked[name := f"{len(asked)} of {task}"] = at_s
            engine.admit(scheduled(name, DEPTHS[task], task=f"task {task}"))
        before = len(engine.ended)
        if engine.step() is None:
            engine.now = coming[0]
        coming += [engine.now + READING_S] * (len(engine.ended) - before)
    return [end - asked[name] for name, end in engine.ended.items()][ANSWERS // 10 :]


@pytest.mark.parametrize(
    ("fixed", "per_row", "p50", "p99"),
    [
        (1.5e-3, 3.6e-3, 0.9, 1.5),
        (0.2e-3, 1.8e-3, 0.9, 1.5),
        (0.1e-3, 0.04e-3, 1.05, 1.5),
        (0.7e-3, 0.05e-3, 1.05, 1.5),
    ],
    ids=["ViT-B/16", "ViT-B/16, little fixed cost", "small backbone", "small backbone, much fixed cost"],
)
def test_the_tail_is_not_far_from_first_come_first_served_and_the_median_better_where_order_can_help(
    fixed, per_row, p50, p99
):
    ours, in_order = latencies("stretch", fixed, per_row), latencies("first-come", fixed, per_row)
    assert quantile(ours, 0.5) <= p50 * quantile(in_order, 0.5)
    assert quantile(ours, 0.99) <= p99 * quantile(in_order, 0.99)


def test_least_work_has_the_best_median_and_pays_with_the_tail():
    least, ours = latencies("least-work", 1.5e-3, 3.6e-3), latencies("stretch", 1.5e-3, 3.6e-3)
    assert quantile(least, 0.5) < 0.7 * quantile(ours, 0.5)
    assert quantile(least, 0.99) > 2 * quantile(ours, 0.99)
