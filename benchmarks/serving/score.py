"""Images a second of offline scoring with 1 and with 16 tasks, against the engine alone.

Random LoRA tasks with heads of ten classes on the packaged backbone, at depths 4 to 10, half of them adapted in their
last two blocks alone. The engine alone gets the same images as tensors, already decoded, in batches of the same size,
on one thread; `score` reads, decodes and writes them in one process on one thread, through the same code as its workers
run, without Ray's start. The ratio says what reading, decoding and writing cost; `--ray` adds what the whole command
does with a process a core.
`--quick` takes 64 images once.

    python -m benchmarks.serving.score
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.oracle import make_task

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.options import make_parser, settings_of
from onetrunk.many.score import score
from serving.runtime.device import set_cpu_threads
from serving.runtime.offline import OfflineEngine
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

COUNTS = (1, 16)
DEPTHS = (4, 6, 8, 10)


def main() -> None:
    options = parse()
    keep_freed_memory()
    set_cpu_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        pictures = draw(root / "pictures", options.images)
        with make_store(root) as store:
            rounds = [measure(store, pictures, root, options) for _ in range(options.rounds)]
    figures: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        figures[name] = spread([one[name] for one in rounds])
        print(f"{name:<40} {spread_text(figures[name], '.4g')}")
    ratios = {
        count: statistics.median(one[f"score, {count} tasks"] / one[f"engine alone, {count} tasks"] for one in rounds)
        for count in COUNTS
    }
    goals = [Goal(f"score / engine alone, {count} tasks", ratio, 0.7) for count, ratio in ratios.items()]
    conclude(options.out, {"machine": machine(), **settings_of(options), "images_per_second": figures}, goals)


def draw(folder: Path, count: int) -> Path:
    """Write noise of the backbone's size as JPEG files."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for number in range(count):
        pixels = chance.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def make_store(root: Path) -> Store:
    backbone = load_backbone(DEFAULT_BACKBONE)
    store = Store.open(root / "store", create=True)
    store.add_backbone(backbone.record, encode(backbone))
    for number in range(max(COUNTS)):
        depth = DEPTHS[number % len(DEPTHS)]
        first = 0 if number % 2 == 0 else depth - 2
        targets = [f"blocks.{block}.{module}" for block in range(first, depth) for module in ("attn.qkv", "mlp.fc1")]
        folder = root / f"task-{number}"
        made = make_task(backbone, folder, depth=depth, classes=10, seed=number, target_modules=targets)
        store.publish(f"task-{number}", made.folder, backbone=backbone.record.name, depth=depth)
    return store


def measure(store: Store, pictures: Path, root: Path, options: argparse.Namespace) -> dict[str, float]:
    rates: dict[str, float] = {}
    for count in COUNTS:
        refs = [f"task-{number}" for number in range(count)]
        rates[f"engine alone, {count} tasks"] = engine_alone(store, refs, pictures)
        out = root / "out.jsonl"
        rates[f"score, {count} tasks"] = score(store, refs, pictures, out=out, workers=0).images_per_second
        out.unlink()
        if options.ray:
            began = time.monotonic()
            summary = score(store, refs, pictures, out=out)
            rates[f"score over Ray, start included, {count} tasks"] = summary.images / (time.monotonic() - began)
            out.unlink()
    print("a round is done", file=sys.stderr)
    return rates


def engine_alone(store: Store, refs: list[str], pictures: Path) -> float:
    """Run images that are in memory as tensors; what is not the engine's is done before."""
    engine = OfflineEngine(store, [store.resolve(ref) for ref in refs])
    pixels = [engine.decode(path) for path in sorted(pictures.iterdir())]
    batches = [pixels[start : start + engine.images] for start in range(0, len(pixels), engine.images)]
    engine.predict(batches[0])
    began = time.monotonic()
    with torch.inference_mode():
        for batch in batches:
            engine.predict(batch)
    seconds = time.monotonic() - began
    engine.close()
    return len(pixels) / seconds


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="score.json")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="measure the whole command with a process a core too")
    parser.add_argument("--quick", action="store_true", help="64 images, once")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = 64, 1
    return options


if __name__ == "__main__":
    main()
