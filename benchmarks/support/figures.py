"""What the registry's benchmarks share: a spread, a goal beside what was measured, and where both are written."""

from __future__ import annotations

import json
import math
import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Goal:
    """A figure and what it had to be: at least the goal, or at most where `most` is set."""

    name: str
    measured: float
    goal: float
    most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.goal if self.most else self.measured >= self.goal


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": _round(statistics.median(values)), "min": _round(min(values)), "max": _round(max(values))}


def quantile(values: Sequence[float], q: float) -> float:
    """Return the least value that at least the share q of them does not exceed."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def machine() -> dict[str, str | int | None]:
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": sqlalchemy.__version__,
    }


def print_goals(goals: Sequence[Goal]) -> None:
    width = max((len(goal.name) for goal in goals), default=0)
    print(f"\n{'figure':<{width}} {'measured':>12} {'goal':>12}")
    for goal in goals:
        bound = f"{'<=' if goal.most else '>='} {goal.goal:g}"
        print(f"{goal.name:<{width}} {goal.measured:>12.4g} {bound:>12} {'met' if goal.met else 'MISSED'}")


def write(path: Path, report: Mapping[str, object], *, goals: Sequence[Goal]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**report, "goals": [{**asdict(goal), "met": goal.met} for goal in goals]}
    path.write_text(json.dumps(whole, indent=2) + "\n")


def _round(value: float) -> float:
    return float(f"{value:.4g}")
