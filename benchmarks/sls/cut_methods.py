"""What each tuning method stores at the cut, how accurate it is, and what 16 bits lose: one depth a task, its own rate.

The depth of a task is the ridge criterion's choice from the frozen backbone's features, so that it favours no method.
Parameters are those of the adapter, without the head; bytes are those of adapter_model.safetensors. Accuracy is that of
the test images, by which nothing is chosen; intervals are over tasks and seeds (95 %, Student's t): of the difference
to LoRA, and of what is lost with adapter and head rounded to 16 bits. Trainings are kept beside those of `cut_evidence`
and found again. Prints tables; JSON in benchmarks/results/cut_methods.json. `--report` trains nothing and reports the
tasks of which every training is there.

    python -m benchmarks.sls.cut_methods
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.sls.cut_choices import choices
from benchmarks.sls.cut_evidence import train
from benchmarks.sls.cut_report import half_interval, print_table
from benchmarks.sls.cut_runs import DTYPES, Run, add_training_options, find, plan_of, sources
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from sls.adapters.methods import METHODS

COMPARED = "lora"
MEAN_LOSS, LARGEST_LOSS = 0.1, 1.0  # points that 16 bits may lose: over all trainings, and in one


def main() -> None:
    options = parse()
    plan, folder, tasks = plan_of(options), options.folder, sources(options)
    if not options.report:
        train([Run(source, "frozen") for source in tasks], plan, folder, options.processes)
        missing = [run for source in tasks for run in runs_of(source, options)]
        train(missing, plan, folder, options.processes)
    done = [source for source in tasks if all(find(run, folder) for run in runs_of(source, options))]
    if not done:
        sys.exit(f"no task has every training in {folder} yet: leave --report away")
    kept = {
        method: [_kept(run, folder) for source in done for run in runs_of(source, options, method)]
        for method in METHODS
    }
    rows = [row_of(method, kept) for method in METHODS]
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    losses = {name: [loss for method in METHODS for loss in losses_of(kept[method], name)] for name in DTYPES}
    goals = [
        goal
        for name in ("float16", "bfloat16")
        for goal in (
            Goal(
                f"mean loss of {name}, points, {len(losses[name])} trainings",
                statistics.mean(losses[name]),
                MEAN_LOSS,
                most=True,
            ),
            Goal(f"greatest loss of {name}, points", max(losses[name]), LARGEST_LOSS, most=True),
        )
    ]
    depths = {Path(source).stem: depth_of(source, folder) for source in done}
    trainings = [run for each in kept.values() for run in each]
    conclude(options.out, {"machine": machine(), "depths": depths, "methods": rows, "trainings": trainings}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cut_methods.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    add_training_options(parser)
    return parser.parse_args()


def depth_of(source: str, folder: Path) -> int:
    return next(choice.depth for choice in choices(source, folder, "frozen") if choice.label == "ridge")


def runs_of(source: str, options: argparse.Namespace, method: str | None = None) -> list[Run]:
    """Return the trainings of a task, with one method or all; only its frozen run where that is not done."""
    frozen = Run(source, "frozen")
    if find(frozen, options.folder) is None:
        return [frozen]
    depth = depth_of(source, options.folder)
    return [
        Run(source, f"before-d{depth}-s{seed}-{name}")
        for name in ([method] if method else METHODS)
        for seed in range(options.seeds)
    ]


def row_of(method: str, kept: Mapping[str, list[dict[str, Any]]]) -> dict[str, float | str]:
    """Return a method's means over tasks and seeds, and what it is above LoRA with the half of the interval."""
    accuracy = {name: [100 * run["test"][-1] for run in kept[name]] for name in (method, COMPARED)}
    points = [one - other for one, other in zip(accuracy[method], accuracy[COMPARED], strict=True)]
    return {
        "method": method,
        "parameters": round(statistics.mean(run["adapter_parameters"] for run in kept[method])),
        "bytes": round(statistics.mean(run["adapter_nbytes"] for run in kept[method])),
        "accuracy, %": statistics.mean(accuracy[method]),
        "points above LoRA": statistics.mean(points),
        "half interval": half_interval(points),
        "float16 loses": statistics.mean(losses_of(kept[method], "float16")),
        "bfloat16 loses": statistics.mean(losses_of(kept[method], "bfloat16")),
    }


def losses_of(trainings: list[dict[str, Any]], name: str) -> list[float]:
    return [100 * (run["stored"]["float32"] - run["stored"][name]) for run in trainings]


def _kept(run: Run, folder: Path) -> dict[str, Any]:
    kept = find(run, folder)
    assert kept is not None, run
    return kept


if __name__ == "__main__":
    main()
