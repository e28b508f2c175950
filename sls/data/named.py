"""Read a dataset that timm reads by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import create_dataset

from sls.data.dataset import Split
from sls.data.raw import RawDataset
from store.errors import DataError, ImageError
from store.images.decoding import to_rgb
from store.images.limits import check_size

PREFIXES = ("torch/", "hfds/", "hfids/", "tfds/", "wds/")
FOLDERS = ("timm/folder", "torch/image_folder", "torch/folder")
"""Names that say how a folder is read, and not which: they need `root`."""


def is_known(name: str) -> bool:
    """Whether timm would take it for a name; it reads the current directory for any other."""
    return name.lower().startswith(PREFIXES) or name in FOLDERS


def read_named(name: str, root: Path | None) -> RawDataset:
    """Read the splits "train" and "test"; raise `DataError`."""
    if root is None and name.lower() in FOLDERS:
        raise DataError(f"{name!r} reads a folder: name it with `root=`")
    train, names = _read_part(name, root, "train")
    parts = {"train": train}
    # timm reads the same images for `validation` and `test`, and the whole folder if a split is missing
    try:
        test, _ = _read_part(name, root, "test")
    except DataError:
        test = train
    if not set(train.digests) <= set(test.digests):
        parts["test"] = test
    count = int(max(part.labels.max(initial=0) for part in parts.values())) + 1
    return RawDataset(name.replace("/", "-"), names or tuple(map(str, range(count))), parts)


def _read_part(source: str, root: Path | None, part: str) -> tuple[Split, tuple[str, ...]]:
    folder = root or Path()
    try:
        dataset = create_dataset(source, root=str(folder), split=part, download=True, input_img_mode=None)
        split = _read_all(dataset)
    except (ValueError, AssertionError, RuntimeError, OSError, KeyError, ImportError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"timm cannot read {source!r} in {folder} ({line}): check the name, or give `root=`") from None
    return split, tuple(map(str, getattr(dataset, "classes", ())))


def _read_all(dataset: Iterable[tuple[Image.Image, int]]) -> Split:
    images, labels = [], []
    for index, (image, label) in enumerate(dataset):
        try:
            check_size(*image.size)
        except ImageError as error:
            raise DataError(f"image {index}: {error}") from None
        images.append(np.asarray(to_rgb(image), dtype=np.uint8))
        labels.append(int(label))
    return Split(tuple(images), np.array(labels, dtype=np.int64))
