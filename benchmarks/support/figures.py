"""How the benchmarks report: spreads, goals beside the measured values, and the JSON that has both."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy


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


def spread_of_ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return the spread of the ratios of the values to the base, round by round."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def spread_text(spread: Mapping[str, float], form: str = ".3f") -> str:
    """Return the median, and the lowest and the highest value in brackets."""
    return f"{spread['median']:{form}} [{spread['min']:{form}}, {spread['max']:{form}}]"


def machine() -> dict[str, str | int | None]:
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "sqlalchemy": sqlalchemy.__version__,
    }


def conclude(out: Path, report: Mapping[str, object], goals: Sequence[Goal] = ()) -> bool:
    """Print the goals, write them and the report as JSON, and return whether every goal is met."""
    if goals:
        _print_goals(goals)
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = {**report, "goals": [{**asdict(goal), "met": goal.met} for goal in goals]}
    out.write_text(json.dumps(whole, indent=2) + "\n")
    return all(goal.met for goal in goals)


def _print_goals(goals: Sequence[Goal]) -> None:
    width = max(len(goal.name) for goal in goals)
    print(f"\n{'figure':<{width}} {'measured':>12} {'goal':>12}")
    for goal in goals:
        bound = f"{'<=' if goal.most else '>='} {goal.goal:g}"
        print(f"{goal.name:<{width}} {goal.measured:>12.4g} {bound:>12} {'met' if goal.met else 'MISSED'}")


def _round(value: float) -> float:
    return float(f"{value:.4g}")
