"""The report of `benchmarks.sls.width`: what its runs show, task by task and in the mean over the tasks."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sls.cut_report import half_interval, print_table
from benchmarks.support.figures import Goal

PEER = "torch-pruning"
DTYPES = ("float32", "bfloat16")
FASTER = 1.5
POINTS = 1.0  # that a width may lose
NUMBERS = ("accuracy", "low", "high", "one_shot", "whole", *(f"{name}_over_whole" for name in DTYPES))
BYTES = ("index_nbytes", "adapter_nbytes")

Row = dict[str, Any]


def kept_rows(folder: Path, tasks: Sequence[str], shares: Sequence[float], ways: Sequence[str]) -> list[Row]:
    """Return the runs that are there, of these tasks, shares and ways."""
    paths = [folder / task / f"{way}-{share:g}.json" for task in tasks for share in shares for way in ways]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def print_rows(rows: Sequence[Row]) -> None:
    keys = ("task", "share", "way", *NUMBERS, *BYTES)
    print_table(keys, [tuple(row[key] for key in keys) for row in rows])


def means(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each share and way: means over its tasks.

    Points are those of the tuned task above depth at the same share, and above the whole task, each with half of a 95 %
    interval over the tasks (Student's t).
    """
    depth = {(row["task"], row["share"]): row["accuracy"] for row in rows if row["way"] == "depth"}
    found = []
    for share, way in sorted({(row["share"], row["way"]) for row in rows}):
        own = [row for row in rows if (row["share"], row["way"]) == (share, way)]
        above = [row["accuracy"] - depth[key] for row in own if (key := (row["task"], share)) in depth]
        lost = [row["accuracy"] - row["whole"] for row in own]
        found.append(
            {
                "share": share,
                "way": way,
                "tasks": len(own),
                **{key: statistics.mean(row[key] for row in own) for key in ("one_shot", "accuracy")},
                "above whole": statistics.mean(lost),
                "half interval": half_interval(lost),
                "above depth": statistics.mean(above) if above else None,
                "half interval of it": half_interval(above) if above else None,
                **{
                    f"{name}_over_whole": statistics.median(row[f"{name}_over_whole"] for row in own) for name in DTYPES
                },
                **{key: round(statistics.mean(row[key] for row in own)) for key in BYTES},
            }
        )
    return found


def print_means(rows: Sequence[Row]) -> None:
    if found := means(rows):
        print_table(tuple(found[0]), [tuple(row.values()) for row in found])


def goals(rows: Sequence[Row]) -> list[Goal]:
    """For how many tasks some width gives so many times the images a second, in float32, and loses at most a point."""
    tasks = {row["task"] for row in rows}
    fast = {
        row["task"]
        for row in rows
        if row["way"] not in ("depth", PEER)
        and row["float32_over_whole"] <= 1 / FASTER
        and row["accuracy"] >= row["whole"] - POINTS
    }
    return [Goal(f"tasks {FASTER} times as fast at <= {POINTS:g} point, with a width", len(fast), len(tasks))]
