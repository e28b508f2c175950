"""Whether every method is either served exactly or refused: a table of PEFT's registered methods and the custom ones.

Each cell is the largest difference of a logit, in float32, to the same task served alone by stock PEFT and timm (custom
methods: by their modules in timm's blocks): alone in a batch, in batches mixed with every other method, cut to half of
the depth, and with heads of 2 and 1,000 classes. A method without an exact form is refused when it is published.
Prints the table as Markdown; JSON in benchmarks/results/conformance.json. Exits with 1 where a cell is above 1e-4.

    python -m benchmarks.engine.conformance
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import timm
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from support.custom_tasks import CUSTOM, custom_logits, make_custom_task
from support.oracle import MODULES, TaskFolder, lowered, make_backbone, make_peft_task, reference_logits
from support.peft_tasks import CONFIGS
from torch import Tensor

from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from serving.engine.engine import Engine
from store.adapters.checkpoint import check, read_checkpoint
from store.adapters.methods.supported import SUPPORTED, supported_method
from store.errors import UnservedAdapterError
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.forms import TaskWeights

WITHIN = 1e-4
COLUMNS = ("alone", "mixed", "depth cut", "heads of 2 and 1000")
BATCH = 16


@dataclass(frozen=True)
class Kind:
    """How a task is made: its row in the table, and the columns in which it counts."""

    method: str
    name: str
    cut: bool
    classes: int


@dataclass(frozen=True)
class Case:
    kind: Kind
    weights: TaskWeights
    alone: list[Tensor]


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = backbone_of(root, quick=options.quick)
        size = backbone.record.id.preprocessing.height
        images = torch.randn(options.images, 3, size, size, generator=torch.Generator().manual_seed(0))
        tasks = list(make_tasks(backbone, root, images))
    rows = compare(Engine(backbone), tasks, images, options.rounds)
    print_table(rows)
    refused = {row["method"]: row["refused"] for row in rows if "refused" in row}
    served = [row for row in rows if "refused" not in row]
    worst = max(row[column] for row in served for column in COLUMNS)
    goals = [
        Goal("largest difference of a logit", worst, WITHIN, most=True),
        Goal("methods served exactly", len({row["method"] for row in served}), 12),
        Goal("methods neither served nor refused", len(methods() - {row["method"] for row in rows}), 0, most=True),
    ]
    versions = {"torch": torch.__version__, "peft": peft.__version__, "timm": timm.__version__}
    report = {"machine": {**machine(), **versions}, "backbone": backbone.record.name, "rows": rows, "refused": refused}
    sys.exit(not conclude(options.out, report, goals))


def backbone_of(root: Path, *, quick: bool) -> Backbone:
    """Return the packaged backbone, or a quick one: random, of four blocks."""
    return make_backbone(root / "backbone", embed_dim=96, num_heads=3) if quick else load_backbone(DEFAULT_BACKBONE)


def methods() -> set[str]:
    return {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} | {*SUPPORTED}


def make_tasks(backbone: Backbone, root: Path, images: Tensor) -> Iterator[Case]:
    """Make three tasks of every config: of 10 classes, of 1,000, and of 2 with half of the depth."""
    blocks = backbone.record.blocks
    for index, name in enumerate((*CONFIGS, *CUSTOM)):
        for seed, (depth, classes) in enumerate(((blocks, 10), (blocks, 1000), (max(1, blocks // 2), 2))):
            folder = root / f"{index}-{seed}"
            task = make_task(name, backbone, folder, depth=depth, classes=classes, seed=seed)
            alone = logits_alone(name, backbone, task, images)
            checkpoint = read_checkpoint(folder)
            check(checkpoint, backbone.record, depth)
            kind = Kind(str(checkpoint.settings["peft_type"]), name, depth < blocks, classes)
            yield Case(kind, lowered(backbone, task), alone)


def make_task(name: str, backbone: Backbone, folder: Path, *, depth: int, classes: int, seed: int) -> TaskFolder:
    """Write the folder of a task that is random in every tensor, of a config of PEFT's or a method of ours."""
    if name not in CONFIGS:
        return make_custom_task(backbone, folder, name, depth=depth, classes=classes, seed=seed)
    targets = [f"blocks.{block}.{module}" for block in range(depth) for module in MODULES]
    return make_peft_task(
        backbone, TaskFolder(folder, depth), CONFIGS[name](targets, 4 + 2 * seed), classes=classes, seed=seed
    )


def logits_alone(
    name: str, backbone: Backbone, task: TaskFolder, images: Tensor, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return (reference_logits if name in CONFIGS else custom_logits)(backbone, task, images, dtype)


def compare(engine: Engine, tasks: Sequence[Case], images: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each config, with the largest difference in each column, and one for each refused method."""
    alone: dict[Kind, float] = {}
    for task in tasks:
        answers = engine.forward(images, [task.weights] * len(images))
        alone[task.kind] = max(map(difference, answers, task.alone))
    mixed = dict.fromkeys(alone, 0.0)
    draw = random.Random(0)
    for _ in range(rounds):
        order = draw.sample(tasks, k=len(tasks))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            image_of = [draw.randrange(len(images)) for _ in batch]
            answers = engine.forward(images, [task.weights for task in batch], image_of)
            for task, image, logits in zip(batch, image_of, answers, strict=True):
                mixed[task.kind] = max(mixed[task.kind], difference(logits, task.alone[image]))
    both = {kind: max(alone[kind], mixed[kind]) for kind in alone}
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(kind.name for kind in alone):
        kinds = [kind for kind in alone if kind.name == name]
        columns = (
            max(alone[kind] for kind in kinds),
            max(mixed[kind] for kind in kinds),
            max(both[kind] for kind in kinds if kind.cut),
            max(both[kind] for kind in kinds if kind.classes != 10),
        )
        rows.append({"method": kinds[0].method, "config": name, **dict(zip(COLUMNS, columns, strict=True))})
    return [*rows, *refusals()]


def refusals() -> Iterator[dict[str, Any]]:
    for method in sorted(methods() - {*SUPPORTED}):
        try:
            supported_method({"peft_type": method})
        except UnservedAdapterError as error:
            yield {"method": method, "config": "", "refused": str(error).split(" (")[1].split(");")[0]}


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"| method | config | {' | '.join(COLUMNS)} |")
    print(f"|---|---|{'---|' * len(COLUMNS)}")
    for row in rows:
        cells = [f"refused: {row['refused']}"] if "refused" in row else [f"{row[column]:.0e}" for column in COLUMNS]
        print(f"| {row['method']} | {row['config']} | {' | '.join(cells + [''] * (len(COLUMNS) - len(cells)))} |")


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="conformance.json")
    parser.add_argument("--quick", action="store_true", help="a random backbone of four blocks, two rounds")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, help="batches of all tasks in a random order (default 10, quick 2)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 10)
    return options


if __name__ == "__main__":
    main()
