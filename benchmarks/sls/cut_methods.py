"""What each tuning method stores at the cut, and how accurate it is: one recipe, one depth a task, three seeds.

The depth of a task is the ridge criterion's choice from the frozen backbone's features, so that it favours no method.
Parameters are those of the adapter, without the head; bytes are those of adapter_model.safetensors. Trainings are kept
beside those of `cut_evidence` and found again. Prints a table; JSON in benchmarks/results/cut_methods.json.

    python -m benchmarks.sls.cut_methods
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.sls.cut_choices import choices
from benchmarks.sls.cut_evidence import train
from benchmarks.sls.cut_report import print_table
from benchmarks.sls.cut_runs import Run, add_training_options, find, plan_of
from benchmarks.support.figures import conclude, machine
from benchmarks.support.options import make_parser
from sls.adapters.methods import METHODS
from sls.data.embedded import EMBEDDED


def main() -> None:
    options = parse()
    plan = plan_of(options)
    sources = [f"onetrunk/{name}" for name in options.task or EMBEDDED]
    train([Run(source, "frozen") for source in sources], plan, options.folder, options.processes)
    depths = {source: depth_of(source, options.folder) for source in sources}
    runs = {
        (source, method): [Run(source, f"before-d{depths[source]}-s{seed}-{method}") for seed in range(options.seeds)]
        for source in sources
        for method in METHODS
    }
    train([run for each in runs.values() for run in each], plan, options.folder, options.processes)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        trainings = [[_kept(run, options.folder) for run in runs[source, method]] for source in sources]
        rows.append(
            {
                "method": method,
                "parameters": round(statistics.mean(task[0]["adapter_parameters"] for task in trainings)),
                "nbytes": round(statistics.mean(task[0]["adapter_nbytes"] for task in trainings)),
                "accuracy": [
                    statistics.mean(100 * task[seed]["test"][-1] for task in trainings) for seed in range(options.seeds)
                ],
            }
        )
    names = ("method", "parameters", "bytes", "accuracy", "lowest seed", "highest seed")
    print_table(names, [(*list(row.values())[:3], *_spread(row["accuracy"])) for row in rows])
    depths_by_task = {Path(source).stem: depth for source, depth in depths.items()}
    conclude(options.out, {"machine": machine(), "depths": depths_by_task, "methods": rows})


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cut_methods.json")
    parser.add_argument("--seeds", type=int, default=3)
    add_training_options(parser)
    return parser.parse_args()


def depth_of(source: str, folder: Path) -> int:
    return next(choice.depth for choice in choices(source, folder, "frozen") if choice.label == "ridge")


def _spread(means: list[float]) -> tuple[float, float, float]:
    return statistics.mean(means), min(means), max(means)


def _kept(run: Run, folder: Path) -> dict[str, Any]:
    kept = find(run, folder)
    assert kept is not None, run
    return kept


if __name__ == "__main__":
    main()
