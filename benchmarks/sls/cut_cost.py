"""What scoring costs over running the images through the backbone, and over t-SNE.

In turns, in one run, for the training images of an embedded task: two forward passes of the frozen packaged backbone
(the model alone, from tensors that are ready); every criterion but t-SNE on the features of every block; the t-SNE
score of some blocks. A criterion runs on one thread, the model on torch's default. Prints a table of seconds with their
spread over rounds; JSON in benchmarks/results/cut_cost.json. `--limit 200 --rounds 1 --tsne-blocks 1` takes seconds.

    python -m benchmarks.sls.cut_cost
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.options import make_parser
from sls.data.dataset import Split
from sls.data.embedded import EMBEDDED, render
from sls.scoring.criteria import CRITERIA
from sls.scoring.feature_rows import Labels
from sls.scoring.features import BATCH, BlockFeatures, block_features
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone
from store.weights.preprocessing import make_transform

TSNE = "sls"
CHEAP = tuple(name for name, criterion in CRITERIA.items() if not criterion.noise)


@dataclass(frozen=True)
class Subject:
    """The same images in three states: tensors, features, labels."""

    vit: VisionTransformer
    inputs: Tensor
    features: BlockFeatures
    labels: Labels

    def forward(self) -> None:
        with torch.inference_mode():
            for batch in self.inputs.split(BATCH):
                self.vit(batch)

    def score(self, name: str, blocks: range) -> None:
        view = {"scored": self.features.scored, "served": self.features.served}[CRITERIA[name].view]
        for block in blocks:
            CRITERIA[name].score(view[block], self.labels)


def main() -> None:
    options = parse()
    keep_freed_memory()
    subject = prepare(options)
    blocks = len(subject.features.scored)
    every = range(blocks)
    some = range(blocks - 1, -1, -max(1, blocks // options.tsne_blocks))[: options.tsne_blocks]
    subject.forward()
    for name in CHEAP:
        subject.score(name, every[:1])
    rounds = []
    for number in range(1, options.rounds + 1):
        seconds = {"two forward passes": 2 * timed(subject.forward)}
        seconds |= {name: timed(lambda name=name: subject.score(name, every)) for name in CHEAP}
        seconds[TSNE] = timed(lambda: subject.score(TSNE, some)) * blocks / len(some)
        rounds.append(seconds)
        print(f"round {number}/{options.rounds}", file=sys.stderr)
    report(rounds, len(some), blocks, options)


def prepare(options: argparse.Namespace) -> Subject:
    backbone = load_backbone(DEFAULT_BACKBONE)
    split = Split(*render(options.task, "train", options.limit))
    transform = make_transform(backbone.record.id.preprocessing)
    vit = backbone.build()
    features = block_features(vit, split, transform)
    return Subject(vit, split.inputs(range(len(split)), transform), features, split.labels)


def timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(rounds: list[dict[str, float]], tsne_blocks: int, blocks: int, options: argparse.Namespace) -> None:
    for seconds in rounds:
        seconds["all but t-SNE"] = sum(seconds[name] for name in CHEAP)
    print(f"{options.limit} images, {blocks} blocks; {TSNE}: {tsne_blocks} blocks, scaled to all")
    print(f"{'':<20} {'seconds':>28} {'of two forward passes':>28} {'t-SNE / this':>28}")
    rows = []
    for name in rounds[0]:
        row = {
            "seconds": spread([seconds[name] for seconds in rounds]),
            "of_two_forward_passes": spread([seconds[name] / seconds["two forward passes"] for seconds in rounds]),
            "tsne_ratio": spread([seconds[TSNE] / seconds[name] for seconds in rounds]),
        }
        rows.append({"name": name, **row})
        cells = [spread_text(cell, ".4g") for cell in row.values()]
        print(f"{name:<20}" + "".join(f" {cell:>28}" for cell in cells))

    def median(name: str, other: str) -> float:
        return statistics.median(seconds[name] / seconds[other] for seconds in rounds)

    goals = [Goal("all but t-SNE / two forward passes", median("all but t-SNE", "two forward passes"), 1.0, most=True)]
    goals += [Goal(f"t-SNE / {name}", median(TSNE, name), 100.0) for name in CHEAP]
    settings = {"images": options.limit, "task": options.task, "rounds": options.rounds, "tsne_blocks": tsne_blocks}
    threads = {"torch_threads": torch.get_num_threads()}
    conclude(options.out, {"machine": machine(), **settings, **threads, "rows": rows}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="cut_cost.json")
    parser.add_argument("--task", default="digits", choices=list(EMBEDDED))
    parser.add_argument("--limit", type=int, default=1000, help="images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tsne-blocks", type=int, default=3, help="t-SNE is run on so many blocks a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
