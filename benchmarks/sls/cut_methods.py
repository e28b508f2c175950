"""What each tuning method stores at the cut, and how accurate it is: one recipe, one depth a task, three seeds.

The depth of a task is what the ridge criterion chooses from the frozen backbone's features, so that no method is
favoured by the choice. Parameters are those of the adapter, head apart; bytes are those of adapter_model.safetensors.
Trainings are kept beside those of cut_evidence.py and found again. Prints a table; JSON in
benchmarks/results/cut_methods.json.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.sls.cut_choices import choices
from benchmarks.sls.cut_evidence import train
from benchmarks.sls.cut_report import print_table
from benchmarks.sls.cut_runs import QUICK, Plan, Run, find, keep_plan
from benchmarks.support.figures import RESULTS, machine, write
from sls.adapters.methods import METHODS
from sls.data.embedded import EMBEDDED


def main() -> None:
    options = parse()
    plan = QUICK if options.quick else Plan()
    keep_plan(plan, options.folder)
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
        found = [[_kept(run, options.folder) for run in runs[source, method]] for source in sources]
        rows.append(
            {
                "method": method,
                "parameters": round(statistics.mean(task[0]["adapter_parameters"] for task in found)),
                "nbytes": round(statistics.mean(task[0]["adapter_nbytes"] for task in found)),
                "accuracy": [
                    statistics.mean(100 * task[seed]["test"][-1] for task in found) for seed in range(options.seeds)
                ],
            }
        )
    names = ("method", "parameters", "bytes", "accuracy", "lowest seed", "highest seed")
    print_table(names, [(*list(row.values())[:3], *_spread(row["accuracy"])) for row in rows])
    depths_by_task = {Path(source).stem: depth for source, depth in depths.items()}
    write(options.out, {"machine": machine(), "depths": depths_by_task, "methods": rows}, goals=[])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this one; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="few images and one epoch: to see that it runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=RESULTS / "cut_runs", help="where trainings are kept")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS / "cut_methods.json")
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
