"""Is a cut chosen after one epoch as good as one chosen after tuning, and what does it save?

For every task and seed, each with a cheap criterion: the paper's order (tune at full depth, choose, cut, tune
again) against the early choice (one epoch at full depth, choose, go on at that depth), in two lengths. FLOPs are
those of the training, in block passes of an image: epochs times depth. Accuracy is that of the test images, by which
nothing is chosen; the interval of a mean difference is over tasks and seeds (95 %, Student's t). Each tuned adapter is
also measured as it is stored in 16 bits.

It resumes where it stopped: --folder has what is trained. --minutes bounds the time. Prints a table; JSON in
benchmarks/results/early.json. `--report` trains nothing.

    python -m benchmarks.sls.early
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.sls.cut_report import half_interval, print_table
from benchmarks.sls.cut_runs import TrainingPlan, add_tasks, load, sources, stored_accuracies
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import RESULTS, make_parser
from sls.adapters.methods import build_adapted
from sls.adapters.model import TunedModel
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.data.dataset import Dataset
from sls.pipeline.retune import truncated, untrained
from sls.progress import ignore_progress
from sls.scoring.criteria import CRITERIA
from sls.scoring.features import block_features
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.preprocessing import make_transform

FULL, RETUNE = 8, 5  # epochs of the paper's order
LENGTHS = (8, 12)  # epochs of the early choice at its depth; `fit` takes FULL + RETUNE - 1
POINTS, SHARE = -0.5, 0.7  # what the early choice should reach
LOSS = 0.1  # points that 16 bits may lose

Result = dict[str, float]


class Task:
    """A task and a seed, and the two ways to its cut."""

    def __init__(self, source: str, seed: int, options: argparse.Namespace) -> None:
        self.backbone, self.data = parts(source, options.images, options.test)
        self.seed, self.options = seed, options
        self.transform = make_transform(self.backbone.record.id.preprocessing)

    def result(self, epochs: int | None) -> Result:
        """Go the paper's way, or tune for so many epochs after the early choice."""
        first = self._train(FULL if epochs is None else 1)
        criterion = self.options.after_criterion if epochs is None else self.options.early_criterion
        start = truncated(first, self._choose(first, criterion))
        return self._measure(self._train(RETUNE if epochs is None else epochs, start))

    def _train(self, epochs: int, start: TunedModel | None = None) -> TunedModel:
        config = TrainingConfig(epochs=epochs, seed=self.seed)
        start = start or untrained(self.data, self.backbone, config)
        return tune(
            self.data, self.backbone, start, config, transform=self.transform, stage="", progress=ignore_progress
        )

    def _choose(self, tuned: TunedModel, criterion: str) -> int:
        rows = self.data.train.content_order()
        features = block_features(build_adapted(self.backbone, tuned).vit, self.data.train, self.transform, rows=rows)
        return depth_from_features(features, self.data.train.labels[rows], ScoreConfig(criterion=criterion)).depth

    def _measure(self, tuned: TunedModel) -> Result:
        stored = stored_accuracies(tuned, self.backbone, self.data.classes, self.data.test)
        accuracies = {"test" if name == "float32" else name: 100 * value for name, value in stored.items()}
        return {"depth": tuned.depth, **accuracies}


@cache
def parts(source: str, images: int, test: int) -> tuple[Backbone, Dataset]:
    return load_backbone(DEFAULT_BACKBONE), load(source, TrainingPlan(images, 0, test))


def name_of(epochs: int | None) -> str:
    return "after" if epochs is None else f"early {epochs}"


def flops(epochs: int | None, depth: float, blocks: int) -> float:
    """Return the block passes of the training for each image."""
    return FULL * blocks + RETUNE * depth if epochs is None else blocks + epochs * depth


def kept_results(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train what is missing, while there is time, and return the tasks and seeds of which everything is there."""
    end = time.monotonic() + 60 * options.minutes
    rows = []
    for seed in range(options.seeds):
        for source in sources(options):
            task = Path(source).stem
            found: dict[str, Any] = {"task": task, "seed": seed}
            for epochs in options.ways:
                path = options.folder / f"{task}-s{seed}-{name_of(epochs).replace(' ', '-')}.json"
                if not path.exists() and not options.report and time.monotonic() < end:
                    began = time.monotonic()
                    keep(path, Task(source, seed, options).result(epochs))
                    print(f"{path.stem}: {path.read_text()}, {time.monotonic() - began:.0f} s", file=sys.stderr)
                if path.exists():
                    found[name_of(epochs)] = json.loads(path.read_text())
            rows += [found] if len(found) == 2 + len(options.ways) else []
    return rows


def keep(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(result))
    temporary.rename(path)


def report(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    blocks = load_backbone(DEFAULT_BACKBONE).record.blocks
    goals: list[Goal] = []
    means: dict[str, dict[str, float]] = {}
    for epochs in options.ways:
        way = name_of(epochs)
        points = [row[way]["test"] - row["after"]["test"] for row in rows]
        shares = [flops(epochs, row[way]["depth"], blocks) / flops(None, row["after"]["depth"], blocks) for row in rows]
        means[way] = {
            "depth": statistics.mean(row[way]["depth"] for row in rows),
            "test": statistics.mean(row[way]["test"] for row in rows),
            "points": statistics.mean(points),
            "half_interval": half_interval(points),
            "flops": statistics.mean(shares),
        }
        if epochs is not None:
            goals.append(Goal(f"{way}: minus after, points, {len(rows)} pairs", means[way]["points"], POINTS))
            goals.append(Goal(f"{way}: training FLOPs, of after", means[way]["flops"], SHARE, most=True))
    ways = list(means)
    for name in ("float16", "bfloat16"):
        lost = [row[way]["test"] - row[way][name] for row in rows for way in means]
        goals.append(
            Goal(f"mean loss of {name}, points, {len(lost)} trainings", statistics.mean(lost), LOSS, most=True)
        )
    names = ("task", "seed", *(f"{way}: {what}" for way in ways for what in ("depth", "%")))
    print_table(
        names,
        [(row["task"], row["seed"], *(row[way][what] for way in ways for what in ("depth", "test"))) for row in rows],
    )
    print_table(("way", *means["after"]), [(way, *mean.values()) for way, mean in means.items()])
    settings = {
        name: getattr(options, name) for name in ("after_criterion", "early_criterion", "images", "test", "seeds")
    }
    conclude(options.out, {"machine": machine(), "settings": settings, "rows": rows, "means": means}, goals)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = kept_results(options)
    if not rows:
        sys.exit("no task has every training yet: give more --minutes")
    report(rows, options)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="early.json")
    parser.add_argument("--folder", type=Path, default=RESULTS / "early", help="where results are kept")
    parser.add_argument("--minutes", type=float, default=60, help="no training begins after so many")
    add_tasks(parser)
    parser.add_argument("--length", type=int, action="append", help="epochs after the early choice; may be repeated")
    parser.add_argument("--after-criterion", choices=CRITERIA, default="cka")
    parser.add_argument("--early-criterion", choices=CRITERIA, default="ridge")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=400, help="of training")
    parser.add_argument("--test", type=int, default=1000, help="images")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is there")
    options = parser.parse_args()
    options.ways = (None, *(options.length or LENGTHS))
    return options


if __name__ == "__main__":
    main()
