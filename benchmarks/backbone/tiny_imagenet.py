"""Make the .npz that `benchmarks.backbone.train` reads out of Tiny ImageNet as it is distributed (tiny-imagenet-200).

200 classes in the order of `wnids.txt`; 500 training images each, and 10,000 validation images as the test part; 64 px,
RGB. The file takes 1.4 GB.

    python -m benchmarks.backbone.tiny_imagenet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.support.options import bare_parser

SIDE = 64
Labelled = Sequence[tuple[Path, int]]


def main() -> None:
    options = parse()
    ids = (options.folder / "wnids.txt").read_text("ascii").split()
    parts = {"train": training_images(options.folder, ids), "test": validation_images(options.folder, ids)}
    arrays: dict[str, npt.NDArray[np.generic]] = {"classes": np.array(ids)}
    for part, rows in parts.items():
        arrays[f"{part}_x"] = np.stack([_pixels(path) for path, _ in rows])
        arrays[f"{part}_y"] = np.array([label for _, label in rows], np.uint8)
        print(f"{part}: {len(rows)} images", file=sys.stderr)
    np.savez(options.out, **arrays)


def training_images(folder: Path, ids: Sequence[str]) -> Labelled:
    return [(path, label) for label, name in enumerate(ids) for path in _images(folder / "train" / name / "images")]


def validation_images(folder: Path, ids: Sequence[str]) -> Labelled:
    lines = (folder / "val" / "val_annotations.txt").read_text("ascii").splitlines()
    rows = (line.split("\t")[:2] for line in lines)
    return [(folder / "val" / "images" / name, ids.index(label)) for name, label in rows]


def _images(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.JPEG"))


def _pixels(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        sys.exit(f"{path} is {pixels.shape}, not {SIDE} x {SIDE}: give Tiny ImageNet as it is distributed")
    return pixels


def parse() -> argparse.Namespace:
    parser = bare_parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("tiny-imagenet-200"), help="the unpacked data set (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tiny_imagenet.npz"), help="the .npz to write (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
