"""Whether the cut is the same whatever the order of the rows, the number of threads and the run.

For every embedded task: the training images in 3 orders x {1, 2} threads x 3 runs, each in a process of its own that
reads the images, runs the frozen packaged backbone and decides by every criterion; the 18 prune indexes of a task and
criterion, scores included, must be equal in every bit. It also counts how many of the 18 sets of features differ. With
`--tuned FOLDER` the features are those that `cut_evidence` kept there of each task's tuned model, in which classes are
apart and the scan goes further down; their rows are put in the three orders. Prints a table; JSON in
benchmarks/results/cut_determinism.json. All of it takes hours on 2 cores: `--task digits --criterion knn --limit 60`
takes seconds a process.

    python -m benchmarks.sls.cut_determinism
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.sls.cut_runs import Run, features_of, labels_of
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from benchmarks.support.processes import run_json
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.data.dataset import Dataset, Split
from sls.data.embedded import EMBEDDED
from sls.data.loading import load_dataset
from sls.scoring.criteria import CRITERIA
from sls.scoring.feature_rows import Labels
from sls.scoring.features import BlockFeatures, block_features
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone
from store.weights.preprocessing import make_transform


@dataclass(frozen=True)
class Way:
    """One way to make the same decisions: which order of the rows, how many threads, which run."""

    order: int
    threads: int
    run: int


@dataclass(frozen=True)
class Decision:
    """One process's results: a digest of all features, and each criterion's prune index as JSON."""

    features: str
    indexes: Mapping[str, str]


def main() -> None:
    options = parse()
    if options.way is not None:
        print(json.dumps(asdict(decide(options.task[0], Way(*options.way), options))))
        return
    ways = [
        Way(order, threads, run) for run in range(options.runs) for order in range(options.orders) for threads in (1, 2)
    ]
    rows, began = [], time.monotonic()
    for task in options.task or EMBEDDED:
        with ThreadPoolExecutor(options.processes) as pool:
            decisions = list(pool.map(in_a_process, [task] * len(ways), ways, [options] * len(ways)))
        rows += compare(task, decisions)
        print(f"{task}: {len(ways)} processes, {time.monotonic() - began:.0f} s so far", file=sys.stderr)
    report(rows, options)


def in_a_process(task: str, way: Way, options: argparse.Namespace) -> Decision:
    arguments = ["--task", task, "--way", str(way.order), str(way.threads), str(way.run)]
    for name in options.criterion or CRITERIA:
        arguments += ["--criterion", name]
    arguments += ["--samples", str(options.samples)]
    arguments += ["--limit", str(options.limit)] if options.limit else []
    arguments += ["--tuned", str(options.tuned)] if options.tuned else []
    base = os.environ | {"OMP_NUM_THREADS": str(way.threads)}
    return Decision(**run_json("benchmarks.sls.cut_determinism", *arguments, base=base))


def decide(name: str, way: Way, options: argparse.Namespace) -> Decision:
    """Go from the images in an order to the prune indexes, as `onetrunk cut` does."""
    torch.set_num_threads(way.threads)
    features, labels = (tuned_features if options.tuned else frozen_features)(name, way, options)
    settings = ScoreConfig(samples=options.samples)
    indexes = {
        criterion: depth_from_features(features, labels, replace(settings, criterion=criterion))
        for criterion in options.criterion
    }
    digest = hashlib.sha256(features.scored.tobytes() + features.served.tobytes()).hexdigest()
    return Decision(digest, {criterion: json.dumps(asdict(index)) for criterion, index in indexes.items()})


def frozen_features(name: str, way: Way, options: argparse.Namespace) -> tuple[BlockFeatures, Labels]:
    """Run the packaged backbone over the images in an order."""
    task = shuffled(load_dataset(f"onetrunk/{name}", limit=options.limit), way.order)
    backbone = load_backbone(DEFAULT_BACKBONE)
    rows = task.train.content_order()[: options.samples]
    transform = make_transform(backbone.record.id.preprocessing)
    return block_features(backbone.build(), task.train, transform, rows=rows), task.train.labels[rows]


def tuned_features(name: str, way: Way, options: argparse.Namespace) -> tuple[BlockFeatures, Labels]:
    """Read what a training left, and put the first rows of it in an order."""
    source = f"onetrunk/{name}"
    kept, labels = (
        features_of(Run(source, "full-s0"), options.tuned)["train"],
        labels_of(source, options.tuned)["train"],
    )
    rows = np.random.default_rng(way.order).permutation(min(options.samples, len(labels)))
    return BlockFeatures(kept.scored[:, rows], kept.served[:, rows]), labels[rows]


def shuffled(task: Dataset, order: int) -> Dataset:
    rows = np.random.default_rng(order).permutation(len(task.train))
    return replace(task, train=Split(tuple(task.train.images[row] for row in rows), task.train.labels[rows]))


def compare(task: str, decisions: Sequence[Decision]) -> list[dict[str, object]]:
    """One row a criterion: what most ways decide, and how many different decisions there are."""
    features = len({decision.features for decision in decisions})
    rows: list[dict[str, object]] = []
    for criterion in decisions[0].indexes:
        counted = Counter(decision.indexes[criterion] for decision in decisions)
        index = json.loads(counted.most_common(1)[0][0])
        depths = {json.loads(text)["depth"] for text in counted}
        rows.append(
            {
                "task": task,
                "criterion": criterion,
                "ways": len(decisions),
                "different_features": features,
                "different_indexes": len(counted),
                "different_depths": len(depths),
                "index": index,
            }
        )
    return rows


def report(rows: Sequence[dict[str, object]], options: argparse.Namespace) -> None:
    print(
        f"{'task':<12} {'criterion':<12} {'ways':>4} {'features':>8} {'indexes':>7} {'depth':>5}  open, or why not cut"
    )
    for row in rows:
        index = row["index"]
        assert isinstance(index, dict)
        note = index["reason"] or ", ".join(map(str, index["candidates"]))
        print(
            f"{row['task']:<12} {row['criterion']:<12} {row['ways']:>4} {row['different_features']:>8} "
            f"{row['different_indexes']:>7} {index['depth']:>5}  {note}"
        )
    same = [row["different_indexes"] == 1 for row in rows]
    goals = [Goal("share of tasks and criteria with one index", sum(same) / len(same), 1.0)]
    settings = {"orders": options.orders, "threads": [1, 2], "runs": options.runs, "samples": options.samples}
    settings |= {"limit": options.limit, "tuned": options.tuned is not None}
    conclude(options.out, {"machine": machine(), **settings, "rows": rows}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cut_determinism.json")
    parser.add_argument("--task", action="append", choices=list(EMBEDDED), help="only this one; may be repeated")
    parser.add_argument("--criterion", action="append", choices=list(CRITERIA), help="only this one; may be repeated")
    parser.add_argument("--limit", type=int, help="the most images to take (default: 400)")
    parser.add_argument("--samples", type=int, default=400, help="the most images to score")
    parser.add_argument("--tuned", type=Path, help="folder of cut_evidence.py's trainings, whose features are taken")
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="at a time")
    parser.add_argument("--way", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
