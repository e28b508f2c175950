"""Which criterion finds the depth that training finds? Real tasks and trainings, and every criterion's choice.

For every task: LoRA tuned at full depth; that model cut to every second depth and tuned again (one seed); the depth
that each criterion chooses from its features; the accuracy there and at the oracle depth (three seeds). Then the same
choice before any training, from the frozen backbone's features, and a tuning at that depth from the start; and how much
of what tuning again gains a closed-form ridge head on the cut model's features recovers.

It resumes where it stopped: --folder has what is trained, and some three hours on 2 cores fill it. Prints tables; JSON
in benchmarks/results/cut_evidence.json. `--report` trains nothing and prints what is missing.

    python -m benchmarks.sls.cut_evidence
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.sls.cut_choices import choices
from benchmarks.sls.cut_report import AHEAD, SEEDS, oracle, report
from benchmarks.sls.cut_runs import Run, TrainingPlan, add_training_options, do, find, plan_of, sources
from benchmarks.support.options import make_parser
from store.malloc import keep_freed_memory


def main() -> None:
    options = parse()
    plan, folder = plan_of(options), options.folder
    tasks = sources(options)
    for stage in (first_runs, choice_runs):
        wanted = [run for source in tasks for run in stage(source, folder)]
        if not options.report:
            train(wanted, plan, folder, options.processes)
    missing = [run for source in tasks for run in (*first_runs(source, folder), *choice_runs(source, folder))]
    missing = [run for run in missing if find(run, folder) is None]
    print(f"missing: {len(missing)} runs" if missing else "every run is there", file=sys.stderr)
    ready = [source for source in tasks if choice_runs(source, folder)]
    report(ready, plan, folder, options.out, missing=len(missing))


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cut_evidence.json")
    add_training_options(parser)
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    return parser.parse_args()


def first_runs(source: str, folder: Path) -> list[Run]:
    """Return what does not depend on a choice: full depth, the frozen backbone, and every second depth once."""
    del folder
    names = ["full-s0", "frozen", *(f"after-d{depth}-s0" for depth in range(12, 0, -2))]
    return [Run(source, name) for name in names]


def choice_runs(source: str, folder: Path) -> list[Run]:
    """Return what the criteria chose and the oracle depth, with every seed; nothing before the first runs are done."""
    if any(find(run, folder) is None for run in first_runs(source, folder)):
        return []
    after = {choice.depth for choice in choices(source, folder, "full-s0")} | {oracle(source, folder)}
    before = {c.depth for c in choices(source, folder, "frozen") if c.label.split(" ")[0] in AHEAD}
    names = [f"full-s{seed}" for seed in SEEDS]
    names += [f"after-d{depth}-s{seed}" for seed in SEEDS for depth in sorted(after | before)]
    names += [f"before-d{depth}-s{seed}" for seed in SEEDS for depth in sorted(before)]
    return [Run(source, name) for name in names]


def train(runs: Iterable[Run], plan: TrainingPlan, folder: Path, processes: int) -> None:
    """Do the runs that are missing; a run waits for the full model that it is cut from."""
    missing = [run for run in runs if find(run, folder) is None]
    for stage in (lambda name: not name.startswith("after"), lambda name: name.startswith("after")):
        now, began = [run for run in missing if stage(run.name)], time.monotonic()
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), keep_freed_memory) as pool:
            done = pool.map(partial(do, plan=plan, folder=folder), now)
            for count, (run, _) in enumerate(zip(now, done, strict=True), start=1):
                left = (time.monotonic() - began) / count * (len(now) - count)
                print(f"{count} of {len(now)}: {run.task} {run.name}, {left / 60:.0f} min left", file=sys.stderr)


if __name__ == "__main__":
    main()
