"""What it saves to keep decoded, resized images in memory from epoch to epoch, for photographs of several sizes.

Photographs of noise are written as JPEG; one epoch of training over them is timed as it is with the inputs kept and
with none kept, in turns. Seconds are the processor's. Prints a table; JSON in benchmarks/results/image_cache.json.

    python -m benchmarks.sls.image_cache
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.sls.cut_report import print_table
from benchmarks.support.figures import conclude, machine, spread, spread_of_ratios, spread_text
from benchmarks.support.options import make_parser
from sls.data.dataset import Dataset, Split
from sls.pipeline.retune import untrained
from sls.progress import Progress
from sls.training import frozen_prefix
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone
from store.weights.preprocessing import make_transform


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    rows = []
    for side in options.side:
        with TemporaryDirectory() as scratch:
            images = photographs(Path(scratch), side, options.images)
            rounds = [
                (epoch(images, 0, options.depth), epoch(images, 1 << 30, options.depth)) for _ in range(options.rounds)
            ]
        decoded, kept = zip(*rounds, strict=True)
        rows.append(
            {
                "side": side,
                "decoded": spread([1e3 * seconds / len(images) for seconds in decoded]),
                "kept": spread([1e3 * seconds / len(images) for seconds in kept]),
                "share": spread_of_ratios(kept, decoded),
            }
        )
    names = ("side, pixels", "ms an image, decoded", "ms an image, kept", "kept / decoded")
    print_table(
        names, [(row["side"], *(spread_text(row[key]) for key in ("decoded", "kept", "share"))) for row in rows]
    )
    settings = {name: getattr(options, name) for name in ("side", "images", "depth", "rounds")}
    conclude(options.out, {"machine": machine(), "backbone": DEFAULT_BACKBONE, **settings, "rows": rows})


def photographs(folder: Path, side: int, count: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        small = Image.fromarray(random.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def epoch(paths: Sequence[Path], room: int, depth: int) -> float:
    """Return the processor's seconds of the second epoch, with so many bytes of inputs kept."""
    frozen_prefix.INPUT_NBYTES = room
    split = Split(tuple(paths), np.arange(len(paths), dtype=np.int64) % 2)
    dataset = Dataset("photographs", ("one", "other"), split, Split((), np.empty(0, dtype=np.int64)), split)
    backbone, config = load_backbone(DEFAULT_BACKBONE), TrainingConfig(epochs=2)
    transform, ends = make_transform(backbone.record.id.preprocessing), list[float]()

    def note(_: Progress) -> None:
        ends.append(time.process_time())

    tune(
        dataset,
        backbone,
        untrained(dataset, backbone, config, depth),
        config,
        transform=transform,
        stage="",
        progress=note,
    )
    return ends[1] - ends[0]


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="image_cache.json")
    parser.add_argument("--side", type=int, nargs="+", default=[256, 1024, 3000], help="pixels of a photograph")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
