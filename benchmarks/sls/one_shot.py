"""What half of the MLP costs without tuning again: each criterion on the same tuned models.

Each task is tuned once at full width, and scored once by each criterion, as in `sls.width`, whose --folder this finds
both in (with its --images and epochs). Then the best --share of the units of all blocks stay, and all heads with them;
nothing is trained after that but the masks of the criteria that train them. `random` keeps random ones. Accuracies are
of test images; intervals of a mean are over the tasks (95 %, Student's t). Prints tables; JSON in
benchmarks/results/one_shot.json.

    python -m benchmarks.sls.one_shot
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.sls.cut_report import half_interval, print_table
from benchmarks.sls.cut_runs import QUICK, TrainingPlan
from benchmarks.sls.width import Job, fit_of, tuned_job
from benchmarks.support.figures import conclude, machine
from benchmarks.support.options import RESULTS, make_parser, settings_of
from sls.data.embedded import EMBEDDED
from sls.evaluation import accuracy_of
from sls.pipeline.width_fit import search, subject_of
from sls.width.importance import Importance
from sls.width.search import CRITERIA
from sls.width.trial import pruned
from store.records.width import WidthIndex

RANDOM = "random"
WAYS = (*CRITERIA, RANDOM)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    plan = QUICK if options.quick else TrainingPlan(train=options.images, test=options.test, epochs=options.epochs)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for task in options.task or EMBEDDED:
        rows.append(measure(tuned_job(task, plan, options), options.share))
        print(rows[-1], flush=True)
    print_table(("task", "whole", *WAYS), [tuple(row.values()) for row in rows])
    means = {way: statistics.mean(row[way] for row in rows) for way in WAYS}
    lost = {way: [row["whole"] - row[way] for row in rows] for way in WAYS}
    table: list[tuple[object, ...]] = [
        (way, means[way], statistics.mean(lost[way]), half_interval(lost[way])) for way in WAYS
    ]
    print_table(("criterion", "accuracy, %", "points lost", "half interval"), table)
    conclude(options.out, {"machine": machine(), **settings_of(options, "folder"), "rows": rows, "means": means})


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="one_shot.json")
    parser.add_argument("--folder", type=Path, default=RESULTS / "width_runs", help="where trainings are kept")
    parser.add_argument("--task", action="append", choices=EMBEDDED, help="only this one; may be repeated")
    parser.add_argument("--share", type=float, default=0.5, help="of the units that stay")
    parser.add_argument("--images", type=int, default=TrainingPlan.train, help="of training")
    parser.add_argument("--test", type=int, default=TrainingPlan.test, help="images")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--search-epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="few images and one epoch: to see that it runs")
    return parser.parse_args()


def measure(job: Job, share: float) -> dict[str, Any]:
    found = {"task": job.task, "whole": 100 * job.whole.value}
    for way in WAYS:
        run = fit_of(job, "magnitude" if way == RANDOM else way, share)
        importance = search(run)
        units = importance.units
        if way == RANDOM:
            units = np.random.default_rng(0).permuted(np.argsort(units, axis=1), axis=1).astype(float)
        narrow = pruned(subject_of(run), units_alone(replace(importance, units=units, joint=False), share))
        found[way] = 100 * accuracy_of(narrow, job.dataset.test, run.context.transform).value
    return found


def units_alone(importance: Importance, share: float) -> WidthIndex:
    """Keep the best share of the units, sorted over all blocks, and every head."""
    every = (1 << importance.heads.shape[1]) - 1
    masks = [(every, mask.units) for mask in importance.at(share).masks]
    return WidthIndex.of(masks, heads=importance.heads.shape[1], units=importance.units.shape[1])


if __name__ == "__main__":
    main()
