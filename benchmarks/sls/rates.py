"""Which learning rate suits each method? A small search on the embedded tasks, and what 16-bit adapters cost there.

For every method the rate climbs a grid of half decades, from 1e-2 or, for LoRA and its kin, 3e-3: in the direction in
which the mean validation accuracy over the tasks rises, until it falls. The rate that is taken is the lowest within
a point of the best. Test accuracy is reported of it, by which nothing is chosen, with the adapter and the head in
float32, in bfloat16 and in float16. Trainings are short: a few blocks, all adapted, and a few epochs.

It resumes where it stopped: --folder has what is trained. --minutes bounds the time. Prints tables; JSON in
benchmarks/results/rates.json. `--report` trains nothing.

    python -m benchmarks.sls.rates
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from benchmarks.sls.cut_report import print_table
from benchmarks.sls.cut_runs import DTYPES, TrainingPlan, load, stored_accuracies
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import RESULTS, make_parser
from sls.adapters.methods import METHODS, build_adapted
from sls.adapters.model import TunedModel
from sls.data.dataset import Dataset, Split
from sls.data.embedded import EMBEDDED
from sls.evaluation import accuracy_of
from sls.pipeline.retune import untrained
from sls.progress import ignore_progress
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.preprocessing import make_transform

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
FIRST = GRID.index(1e-2)
FIRST_OF_LORA = GRID.index(3e-3)  # and of its kin, in which two trained matrices are multiplied
NEAR = 1.0  # points of validation accuracy below the best at which a lower rate is taken
VALIDATION = 300
TASKS = ("position", "letter")


@dataclass(frozen=True)
class Trial:
    """One training: a task, a method, a rate and a seed, at the depth and for the epochs of the search."""

    task: str
    method: str
    rate: float
    seed: int
    depth: int
    epochs: int
    images: int

    def file(self, folder: Path) -> Path:
        size = f"d{self.depth}-e{self.epochs}-n{self.images}"
        return folder / self.task / f"{self.method}-{self.rate:g}-s{self.seed}-{size}.json"


class Search:
    """Trains trials that are not in the folder yet, until the time is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.end = options, time.monotonic() + 60 * options.minutes

    def climb(self, method: str, seed: int = 0) -> dict[float, float]:
        """Return the mean validation accuracy, in per cent, by rate: of every rate on the way that is measured."""
        if self.options.rate:
            means = {rate: self._mean(method, rate, seed) for rate in self.options.rate}
            return {rate: mean for rate, mean in means.items() if mean is not None}
        first = FIRST_OF_LORA if "lora" in method or method == "dora" else FIRST
        found = {first: self._mean(method, GRID[first], seed)}
        for step in (1, -1):
            place = first
            while 0 <= place + step < len(GRID) and found[place] is not None:
                found[place + step] = self._mean(method, GRID[place + step], seed)
                if (found[place + step] or 0) <= (found[place] or 0):
                    break
                place += step
            if place != first:
                break
        return {GRID[place]: mean for place, mean in sorted(found.items()) if mean is not None}

    def trials(self, method: str, rate: float, seed: int) -> list[Trial]:
        o = self.options
        return [Trial(task, method, rate, seed, o.depth, o.epochs, o.images) for task in o.task or TASKS]

    def result(self, trial: Trial) -> dict[str, dict[str, float]] | None:
        """Return the accuracies of a trial, which is trained where it is missing; None where the time is over."""
        path = trial.file(self.options.folder)
        if not path.exists():
            if self.options.report or time.monotonic() > self.end:
                return None
            began = time.monotonic()
            found = train(trial, self.options.test)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".partial")
            temporary.write_text(json.dumps({**asdict(trial), **found}))
            temporary.rename(path)
            print(
                f"{path.parent.name} {path.stem}: {found['validation']}, {time.monotonic() - began:.0f} s",
                file=sys.stderr,
            )
        return dict(json.loads(path.read_text()))

    def _mean(self, method: str, rate: float, seed: int) -> float | None:
        results = [self.result(trial) for trial in self.trials(method, rate, seed)]
        if any(result is None for result in results):
            return None
        return statistics.mean(100 * result["validation"]["float32"] for result in results if result)


def train(trial: Trial, test: int) -> dict[str, dict[str, float]]:
    """Tune, and measure the adapter and head as stored in each dtype."""
    backbone, whole = parts(trial.task, trial.images, test)
    config = TrainingConfig(epochs=trial.epochs, method=trial.method, learning_rate=trial.rate, seed=trial.seed)
    silent = replace(whole, validation=Split((), np.empty(0, dtype=np.int64)))  # measured at the end alone
    transform = make_transform(backbone.record.id.preprocessing)
    start = untrained(silent, backbone, config, trial.depth)
    tuned = tune(silent, backbone, start, config, transform=transform, stage="", progress=ignore_progress)
    return measure(tuned, backbone, whole)


def measure(tuned: TunedModel, backbone: Backbone, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return the test accuracy in every dtype, and the validation accuracy in float32."""
    transform = make_transform(backbone.record.id.preprocessing)
    model = build_adapted(backbone, tuned)
    return {
        "validation": {"float32": accuracy_of(model, dataset.validation, transform).value},
        "test": stored_accuracies(tuned, backbone, dataset.classes, dataset.test),
    }


@cache
def parts(task: str, images: int, test: int) -> tuple[Backbone, Dataset]:
    plan = TrainingPlan(train=images, validation=VALIDATION, test=test)
    return load_backbone(DEFAULT_BACKBONE), load(f"onetrunk/{task}", plan)


def taken(means: dict[float, float]) -> float:
    """Return the lowest rate within `NEAR` of the best."""
    return min(rate for rate, mean in means.items() if mean >= max(means.values()) - NEAR)


def rows_of(search: Search, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    for method in options.method or METHODS:
        means = search.climb(method)
        if not means:
            continue
        rate = taken(means)
        results = [search.result(trial) for trial in search.trials(method, rate, 0)]
        test = {name: statistics.mean(100 * r["test"][name] for r in results if r) for name in DTYPES}
        yield {
            "method": method,
            "rate": rate,
            "means": {f"{rate:g}": mean for rate, mean in means.items()},
            "test": test,
        }


def report(rows: Sequence[dict[str, object]], options: argparse.Namespace) -> None:
    names = ("method", *(f"{rate:g}" for rate in GRID), "taken", "test, %")
    print_table(names, [_cells(row) for row in rows])
    kept = [json.loads(path.read_text()) for path in sorted(options.folder.glob("*/*.json"))]
    goals = []
    for name in ("bfloat16", "float16"):
        losses = [100 * (run["test"]["float32"] - run["test"][name]) for run in kept]
        if losses:
            goals.append(
                Goal(f"mean loss of {name}, points, {len(losses)} trainings", statistics.mean(losses), 0.1, most=True)
            )
            goals.append(Goal(f"greatest loss of {name}, points", max(losses), 1.0, most=True))
    settings = {name: getattr(options, name) for name in ("depth", "epochs", "images", "test")}
    tasks = {"tasks": list(options.task or TASKS), "backbone": DEFAULT_BACKBONE}
    conclude(options.out, {"machine": machine(), **settings, **tasks, "methods": rows, "trainings": kept}, goals)


def _cells(row: dict[str, object]) -> tuple[object, ...]:
    means, test = row["means"], row["test"]
    assert isinstance(means, dict)
    assert isinstance(test, dict)
    return (row["method"], *(means.get(f"{rate:g}", "") for rate in GRID), f"{row['rate']:g}", test["float32"])


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    search = Search(options)
    report(list(rows_of(search, options)), options)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="rates.json")
    parser.add_argument("--folder", type=Path, default=RESULTS / "rates", help="where trainings are kept")
    parser.add_argument("--minutes", type=float, default=60, help="no training begins after so many")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this one; may be repeated")
    parser.add_argument("--rate", type=float, action="append", help="only this one, as at another --depth; repeatable")
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this one; may be repeated")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=400, help="of training")
    parser.add_argument("--test", type=int, default=200, help="images")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
