"""The wall time of `fit-many` on small tasks, against `fit` on each of them in turn.

Embedded tasks, each with a learning rate or a first adapted block of its own, are tuned and published twice, each time
into a store of its own: by one `onetrunk fit-many`, and by as many `onetrunk fit`, as a script of a shell would call
them. A figure is the ratio of the two wall times; beside it are the cores that were busy in each (by this benchmark,
and by other programs of the machine). `--quick` takes one task of twenty images, once, without Ray.

    python -m benchmarks.sls.fit_many
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.machine_load import cpu_use
from benchmarks.support.options import make_parser, settings_of

NAMES = ("digits", "letter", "slant", "position", "orientation")
RATES = (1e-3, 3e-3, 5e-3)
BLOCKS = (1, 5)


@dataclass(frozen=True)
class Timed:
    """The seconds of a run, and the cores that it and that others kept busy."""

    seconds: float
    cores: float
    others: float


def main() -> None:
    options = parse()
    rows = tasks(options.tasks)
    rounds = []
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as scratch:
            both = {"fit-many": many(rows, Path(scratch), options), "fit": one_by_one(rows, Path(scratch), options)}
        rounds.append(both)
        said = ", ".join(f"{name} {run.seconds:.1f} s, {run.cores:.2f} cores" for name, run in both.items())
        print(f"round {number}/{options.rounds}: {said}", file=sys.stderr)
    ratios = spread([both["fit-many"].seconds / both["fit"].seconds for both in rounds])
    report = {
        name: {
            "seconds": spread([both[name].seconds for both in rounds]),
            "cores": spread([both[name].cores for both in rounds]),
            "others": spread([both[name].others for both in rounds]),
        }
        for name in ("fit-many", "fit")
    }
    for name, figures in report.items():
        print(f"{name:<9}" + "".join(f"  {key} {spread_text(value, '.4g')}" for key, value in figures.items()))
    print(f"fit-many / fit: {spread_text(ratios)}")
    goals = [Goal(f"wall time of fit-many / {len(rows)} times fit", ratios["median"], 0.6, most=True)]
    conclude(options.out, {"machine": machine(), **settings_of(options), "ratio": ratios, "runs": report}, goals)


def tasks(count: int) -> Sequence[tuple[str, str, float, int]]:
    """Return the first of the grid: a name, the data, a learning rate and the first adapted block."""
    grid = itertools.product(BLOCKS, RATES, NAMES)
    return [(f"{name}-{number}", f"onetrunk/{name}", rate, block) for number, (block, rate, name) in enumerate(grid)][
        :count
    ]


def common(options: argparse.Namespace) -> list[str]:
    epochs, retune = ("--epochs", str(options.epochs)), ("--retune-epochs", "1")
    return ["--limit", str(options.limit), *epochs, *retune, "--criterion", "ridge"]


def many(rows: Sequence[tuple[str, str, float, int]], scratch: Path, options: argparse.Namespace) -> Timed:
    lines = [f"{name},{data},{rate},{block}" for name, data, rate, block in rows]
    (scratch / "plan.csv").write_text("\n".join(["name,data,lr,from-block", *lines]), "utf-8")
    words = ["fit-many", str(scratch / "plan.csv"), *common(options), "--out", str(scratch / "work")]
    words += ["--workers", "0"] if options.quick else []
    return timed([[*words, "--store", str(scratch / "many")]])


def one_by_one(rows: Sequence[tuple[str, str, float, int]], scratch: Path, options: argparse.Namespace) -> Timed:
    commands = []
    for name, data, rate, block in rows:
        words = ["fit", name, data, *common(options), "--lr", str(rate), "--from-block", str(block)]
        commands.append([*words, "--store", str(scratch / "one by one")])
    return timed(commands)


def timed(commands: Sequence[Sequence[str]]) -> Timed:
    # As a user calls them: nothing says how many threads they use.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with cpu_use() as use:
        began = time.monotonic()
        for words in commands:
            subprocess.run([sys.executable, "-m", "onetrunk", *words], env=environment, capture_output=True, check=True)
        seconds = time.monotonic() - began
    return Timed(seconds, use.own, use.foreign)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="fit_many.json")
    parser.add_argument("--tasks", type=int, default=16, choices=range(1, 31), metavar="1..30")
    parser.add_argument("--limit", type=int, default=60, help="images of each part of a task")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one task of twenty images, once, without Ray")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.limit, options.epochs, options.rounds = 1, 20, 1, 1
    return options


if __name__ == "__main__":
    main()
