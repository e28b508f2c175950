"""Whether the engine in bfloat16 gives the labels that PEFT and timm give: every supported config, 500 real images.

One task of each config, random in every tensor, answers scikit-learn's scans of digits in batches mixed with all other
configs. In bfloat16 a label may differ from float32's by rounding alone, with PEFT as with the engine: the table counts
both. A label is wrong where rounding cannot explain it: where its logit in float32 is below the best by more than twice
the largest error that PEFT's own bfloat16 makes in any logit of the task. Prints the table as Markdown; JSON in
benchmarks/results/conformance_bf16.json. Exits with 1 where a label is wrong.

    python -m benchmarks.engine.conformance_bf16
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.engine.conformance import BATCH, CONFIGS, CUSTOM, backbone_of, logits_alone, lowered, make_task
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from onetrunk.rendering.tables import Record, to_markdown
from serving.engine.engine import Engine
from sls.data.dataset import Split
from sls.data.embedded import render
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights
from store.weights.preprocessing import make_transform

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A task, and its logits (images, classes) alone, by PEFT and timm: in float32 and in bfloat16."""

    name: str
    weights: TaskWeights
    exact: Tensor
    alone: Tensor


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = backbone_of(root, quick=options.quick)
        scans = Split(*render("digits", "test", options.images))
        images = scans.inputs(np.arange(options.images), make_transform(backbone.record.id.preprocessing))
        cases = list(make_cases(backbone, root, images))
    rows = compare(Engine(backbone, dtype=torch.bfloat16), cases, images)
    print(to_markdown(rows))
    goals = [
        Goal("labels that rounding does not explain", sum(int(str(row["wrong"])) for row in rows), 0, most=True),
        Goal("configs", len(rows), 12),
    ]
    report = {"machine": machine(), "images": options.images, "rows": rows}
    sys.exit(not conclude(options.out, report, goals))


def make_cases(backbone: Backbone, root: Path, images: Tensor) -> Iterator[Case]:
    for index, name in enumerate((*CONFIGS, *CUSTOM)):
        task = make_task(name, backbone, root / str(index), depth=backbone.record.blocks, classes=CLASSES, seed=0)
        exact, alone = (
            torch.stack(logits_alone(name, backbone, task, images, dtype)) for dtype in (torch.float32, torch.bfloat16)
        )
        yield Case(name, lowered(backbone, task, torch.bfloat16), exact, alone)


def compare(engine: Engine, cases: Sequence[Case], images: Tensor) -> list[Record]:
    """Answer every image for every task in batches of random rows, and count labels for each task."""
    order = [(case, image) for case in range(len(cases)) for image in range(len(images))]
    random.Random(0).shuffle(order)
    labels_of = torch.empty(len(cases), len(images), dtype=torch.long)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        answers = engine.forward(images, [cases[case].weights for case, _ in batch], [image for _, image in batch])
        for (case, image), logits in zip(batch, answers, strict=True):
            labels_of[case, image] = logits.argmax()
    return [row_of(case, labels) for case, labels in zip(cases, labels_of, strict=True)]


def row_of(case: Case, labels: Tensor) -> Record:
    best = case.exact.argmax(dim=1)
    below = case.exact.amax(dim=1) - case.exact.gather(1, labels[:, None])[:, 0]
    return {
        "config": case.name,
        "as PEFT in bfloat16": int((labels == case.alone.argmax(dim=1)).sum()),
        "as in float32: engine": int((labels == best).sum()),
        "as in float32: PEFT": int((case.alone.argmax(dim=1) == best).sum()),
        "wrong": int((below > 2 * (case.alone - case.exact).abs().max()).sum()),
    }


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="conformance_bf16.json")
    parser.add_argument("--quick", action="store_true", help="a random backbone of four blocks")
    parser.add_argument("--images", type=int, default=500)
    return parser.parse_args()


if __name__ == "__main__":
    main()
