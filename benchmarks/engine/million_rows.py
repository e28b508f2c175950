"""Whether a million rows leave the backbone as it was: tasks of every supported config, in batches drawn at random.

Two engines on one backbone take turns, in float32 by torch and in bfloat16 by the engine's own kernel where it runs.
Compared before and after: the SHA-256 of every tensor of each engine's backbone, or of what the kernel packed of it,
and every byte of the answers to a batch of all configs. Tasks are one to three blocks deep, so that it takes minutes on
2 cores. JSON in benchmarks/results/million_rows.json; exits with 1 where anything changed.

    python -m benchmarks.engine.million_rows
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engine.conformance import CONFIGS, CUSTOM, backbone_of, lowered, make_task
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.options import make_parser
from serving.engine.engine import Engine
from serving.engine.kernel_model import KernelModel
from store.weights.forms import TaskWeights

BATCH = 64
DEEPEST = 3
REPORT_EVERY = 100_000


def main() -> None:
    options = parse()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone = backbone_of(root, quick=options.quick)
        names = (*CONFIGS, *CUSTOM)
        folders = [
            make_task(name, backbone, root / str(index), depth=draw.randint(1, DEEPEST), classes=10, seed=index % 3)
            for index, name in enumerate(names)
        ]
        engines = [Engine(backbone, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        tasks = [[lowered(backbone, task, engine.dtype) for task in folders] for engine in engines]
    size = backbone.record.id.preprocessing.height
    images = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    digests = [digest(engine) for engine in engines]
    answers = [probe(engine, own, images) for engine, own in zip(engines, tasks, strict=True)]
    began = time.monotonic()
    for start in range(0, options.rows, BATCH):
        turn = start // BATCH % len(engines)
        batch = draw.choices(tasks[turn], k=BATCH)
        engines[turn].forward(images, batch, draw.choices(range(BATCH), k=BATCH))
        if start % REPORT_EVERY < BATCH:
            print(f"{start:,} of {options.rows:,} rows, {time.monotonic() - began:.0f} s", file=sys.stderr)
    written = sum(digest(engine) != before for engine, before in zip(engines, digests, strict=True))
    moved = sum(probe(*each, images) != before for *each, before in zip(engines, tasks, answers, strict=True))
    goals = [
        Goal("engines whose backbone changed", written, 0, most=True),
        Goal("engines whose answers changed", moved, 0, most=True),
    ]
    by_dtype = {str(engine.dtype): before for engine, before in zip(engines, digests, strict=True)}
    report = {
        "machine": machine(),
        "kernel": str(engines[1].kernel),
        "rows": options.rows,
        "configs": len(names),
        "digests": by_dtype,
    }
    sys.exit(not conclude(options.out, report, goals))


def digest(engine: Engine) -> str:
    """Return the SHA-256 of the names and bytes of the backbone's tensors, or of what the kernel reads."""
    if isinstance(engine._model, KernelModel):
        return hashlib.sha256(engine._model.kernel._packed.memory.data).hexdigest()
    sha256 = hashlib.sha256()
    for name, tensor in sorted(engine._model.vit.state_dict().items()):
        sha256.update(name.encode())
        sha256.update(tensor.view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def probe(engine: Engine, tasks: list[TaskWeights], images: Tensor) -> bytes:
    """Return the bytes of every task's logits for one image each, all in one batch."""
    answers = engine.forward(images, tasks, [index % len(images) for index in range(len(tasks))])
    return b"".join(logits.numpy().tobytes() for logits in answers)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="million_rows.json")
    parser.add_argument("--quick", action="store_true", help="a random backbone of four blocks")
    parser.add_argument("--rows", type=int, default=1_000_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
