"""Axes: round ticks for bytes, for numbers on a log axis and for times, and how people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
STEPS = (1, 2, 5, 10)


def size(nbytes: float) -> str:
    """Show bytes with an SI unit and three digits: 1 kB is 1000 B."""
    power = 0
    while nbytes >= 999.5 and power < len(UNITS) - 1:
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:.0f} B" if power == 0 else f"{nbytes:.3g} {UNITS[power]}"


def count(number: float) -> str:
    return f"{number:,.0f}"


def linear_ticks(most: float, *, about: int = 5) -> list[float]:
    """Return round values from 0 to the first that is not below `most`."""
    if most < 1:
        return [0.0, 1.0]
    rough = most / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in STEPS if step * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(most / step * 0.999) + 1)]


def log_ticks(least: float, most: float) -> list[float]:
    """Return the powers of ten from at or below `least` to at or above `most`."""
    first, last = math.floor(math.log10(max(least, 1))), math.ceil(math.log10(max(most, 10)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def time_label(at: str, period: str) -> str:
    """Return the time as a period is called: 2026-03, 1 Mar, 1 Mar 12:30."""
    time = datetime.fromisoformat(at)
    if period == "month":
        return f"{time:%Y-%m}"
    if period == "second":
        return f"{time:%H:%M:%S}"
    return f"{time.day} {time:%b}" if period == "day" else f"{time.day} {time:%b} {time:%H:%M}"


def seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def iso(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")


def spread(places: Sequence[float], *, least: float, low: float, high: float) -> list[float]:
    """Move labels apart by at least `least`, each as near to its place as that allows, within low..high."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = [0.0] * len(places)
    above = low - least
    for index in order:
        above = moved[index] = max(places[index], above + least)
    below = high + least
    for index in reversed(order):
        below = moved[index] = min(moved[index], below - least)
    return moved
