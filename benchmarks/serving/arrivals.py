"""Open-loop load: when images arrive, and for which of a set of tasks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BURST = 8


@dataclass(frozen=True)
class Arrival:
    """An image for a task (its index among the tasks), and when it comes, in seconds from the start."""

    at_s: float
    task: int


def poisson(rate: float, count: int, tasks: Sequence[int], draw: random.Random) -> list[Arrival]:
    """So many arrivals a second, independent of each other."""
    return [Arrival(at_s, draw.choice(tasks)) for at_s in poisson_times(rate, count, draw)]


def poisson_times(rate: float, count: int, draw: random.Random) -> Iterator[float]:
    """Yield the seconds at which the arrivals of a Poisson process come, so many a second."""
    at_s = 0.0
    for _ in range(count):
        at_s += draw.expovariate(rate)
        yield at_s


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


def when_due(arrivals: Sequence[Arrival]) -> Iterator[tuple[Arrival, float]]:
    """Yield each arrival as soon as it is due, and when that is by `time.perf_counter`."""
    start = time.perf_counter()
    for arrival in arrivals:
        due = start + arrival.at_s
        time.sleep(max(0.0, due - time.perf_counter()))
        yield arrival, due
