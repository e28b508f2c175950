"""Whether the engine in bfloat16 gives the labels that PEFT and timm give: every supported config, 500 real images.

It is the engine's own kernel where that runs, and the table has its error beside that of the engine in torch: the root
mean square over all logits of a config, over their spread; exact is float32 with the same bfloat16 numbers.

One task of each config, random in every tensor, answers scikit-learn's scans of digits in batches mixed with all other
configs. In bfloat16 a label may differ from float32's by rounding alone, with PEFT as with the engine: the table counts
both. A label is wrong where rounding cannot explain it: where its logit in float32 is below the best by more than twice
the largest error that PEFT's own bfloat16 makes in any logit of the task. Prints the table as Markdown; JSON in
benchmarks/results/conformance_bf16.json. Exits with 1 where a label is wrong, or an error is larger than torch's.

    python -m benchmarks.engine.conformance_bf16
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Twins:
    """The engine in torch, in bfloat16 and, of the same numbers, in float32."""

    rounded: Engine
    exact: Engine

    @classmethod
    def of(cls, backbone: Backbone) -> Twins:
        numbers = {name: tensor.bfloat16().float() for name, tensor in backbone.tensors.items()}
        rounded = Engine(backbone, dtype=torch.bfloat16, kernel="off")
        return cls(rounded, Engine(Backbone(backbone.record, numbers)))


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = backbone_of(root, quick=options.quick)
        scans = Split(*render("digits", "test", options.images))
        images = scans.inputs(np.arange(options.images), make_transform(backbone.record.id.preprocessing))
        cases = list(make_cases(backbone, root, images))
    engine = Engine(backbone, dtype=torch.bfloat16)
    rows = compare(engine, Twins.of(backbone), cases, images)
    print(to_markdown(rows))
    goals = [
        Goal("labels that rounding does not explain", sum(int(str(row["wrong"])) for row in rows), 0, most=True),
        Goal("configs", len(rows), 12),
        Goal("largest error over torch's", max(float(str(row["error / torch's"])) for row in rows), 1.0, most=True),
    ]
    report = {"machine": machine(), "kernel": str(engine.kernel), "images": options.images, "rows": rows}
    sys.exit(not conclude(options.out, report, goals))


def make_cases(backbone: Backbone, root: Path, images: Tensor) -> Iterator[Case]:
    for index, name in enumerate((*CONFIGS, *CUSTOM)):
        task = make_task(name, backbone, root / str(index), depth=backbone.record.blocks, classes=CLASSES, seed=0)
        exact, alone = (
            torch.stack(logits_alone(name, backbone, task, images, dtype)) for dtype in (torch.float32, torch.bfloat16)
        )
        yield Case(name, lowered(backbone, task, torch.bfloat16), exact, alone)


def compare(engine: Engine, twins: Twins, cases: Sequence[Case], images: Tensor) -> list[Record]:
    """Answer every image for every task in batches of random rows, and count labels and errors for each task."""
    order = [(case, image) for case in range(len(cases)) for image in range(len(images))]
    random.Random(0).shuffle(order)
    engines = (engine, twins.rounded, twins.exact)
    weights = [[case.weights for case in cases]] * 2 + [[in_float32(case.weights) for case in cases]]
    logits = torch.empty(len(engines), len(cases), len(images), CLASSES)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        for each, own, out in zip(engines, weights, logits, strict=True):
            answers = each.forward(images, [own[case] for case, _ in batch], [image for _, image in batch])
            for (case, image), answer in zip(batch, answers, strict=True):
                out[case, image] = answer
    return [row_of(case, *logits[:, index]) for index, case in enumerate(cases)]


def in_float32(weights: TaskWeights) -> TaskWeights:
    forms = weights.forms.to("cpu", torch.float32)
    return replace(weights, forms=forms, head_weight=weights.head_weight.float(), head_bias=weights.head_bias.float())


def row_of(case: Case, ours: Tensor, by_torch: Tensor, of_same_numbers: Tensor) -> Record:
    labels = ours.argmax(dim=1)
    best = case.exact.argmax(dim=1)
    below = case.exact.amax(dim=1) - case.exact.gather(1, labels[:, None])[:, 0]
    error, theirs = (float((each - of_same_numbers).square().mean().sqrt()) for each in (ours, by_torch))
    return {
        "config": case.name,
        "as PEFT in bfloat16": int((labels == case.alone.argmax(dim=1)).sum()),
        "as in float32: engine": int((labels == best).sum()),
        "as in float32: PEFT": int((case.alone.argmax(dim=1) == best).sum()),
        "wrong": int((below > 2 * (case.alone - case.exact).abs().max()).sum()),
        "error": round(error / float(of_same_numbers.std()), 5),
        "error / torch's": round(error / theirs, 3),
    }


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="conformance_bf16.json")
    parser.add_argument("--quick", action="store_true", help="a random backbone of four blocks")
    parser.add_argument("--images", type=int, default=500)
    return parser.parse_args()


if __name__ == "__main__":
    main()
