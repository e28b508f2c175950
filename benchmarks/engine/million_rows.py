"""Whether a million rows leave the backbone as it was: tasks of every served config, in batches drawn at random.

Two engines on one backbone take turns, in float32 and in bfloat16. Before and after: the SHA-256 of every tensor of
each engine's backbone, and every byte of the answers to a batch of all configs. Tasks are one to three blocks deep, so
that it takes minutes on 2 cores. JSON in benchmarks/results/million_rows.json; exits with 1 where anything changed.
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
from benchmarks.support.figures import RESULTS, Goal, machine, print_goals, write
from serving.engine.engine import Engine
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
        made = [
            make_task(name, backbone, root / str(index), depth=draw.randint(1, DEEPEST), classes=10, seed=index % 3)
            for index, name in enumerate(names)
        ]
        engines = [Engine(backbone, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
        tasks = [[lowered(backbone, task, engine.dtype) for task in made] for engine in engines]
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
    written = sum(digest(engine) != found for engine, found in zip(engines, digests, strict=True))
    moved = sum(probe(*each, images) != found for *each, found in zip(engines, tasks, answers, strict=True))
    goals = [
        Goal("engines whose backbone changed", written, 0, most=True),
        Goal("engines whose answers changed", moved, 0, most=True),
    ]
    print_goals(goals)
    kept = {str(engine.dtype): found for engine, found in zip(engines, digests, strict=True)}
    report = {"machine": machine(), "rows": options.rows, "configs": len(names), "digests": kept}
    write(options.out, report, goals=goals)
    sys.exit(not all(goal.met for goal in goals))


def digest(engine: Engine) -> str:
    """Return the SHA-256 of the names and bytes of the backbone's tensors; what was made of them shows in answers."""
    found = hashlib.sha256()
    for name, tensor in sorted(engine._model.vit.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def probe(engine: Engine, tasks: list[TaskWeights], images: Tensor) -> bytes:
    """Return the bytes of every task's logits for one image each, all in one batch."""
    answers = engine.forward(images, tasks, [index % len(images) for index in range(len(tasks))])
    return b"".join(logits.numpy().tobytes() for logits in answers)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a random backbone of four blocks")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "million_rows.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
