"""Open-loop load: when images arrive, and for which of a set of tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

BURST = 8


@dataclass(frozen=True)
class Arrival:
    """An image for a task (its place among the tasks), and when it comes, in seconds from the start."""

    at_s: float
    task: int


def poisson(rate: float, count: int, tasks: Sequence[int], draw: random.Random) -> list[Arrival]:
    """So many arrivals a second, independent of each other."""
    at_s, arrivals = 0.0, []
    for _ in range(count):
        at_s += draw.expovariate(rate)
        arrivals.append(Arrival(at_s, draw.choice(tasks)))
    return arrivals


def bursty(rate: float, count: int, tasks: Sequence[int], draw: random.Random) -> list[Arrival]:
    """Bursts come independently, each of a geometric number of images with mean `BURST`, all at once."""
    at_s, arrivals = 0.0, []
    while len(arrivals) < count:
        at_s += draw.expovariate(rate / BURST)
        size = 1
        while draw.random() > 1 / BURST:
            size += 1
        arrivals += [Arrival(at_s, draw.choice(tasks)) for _ in range(min(size, count - len(arrivals)))]
    return arrivals
