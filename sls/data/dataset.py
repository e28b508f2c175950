"""A dataset: labelled images in three splits, train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from store.errors import DataError, ImageError
from store.images.decoding import decode

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Split:
    """Images, as RGB pixels (H, W, 3) or as files that are read when needed, and their class indices (n,)."""

    images: tuple[Pixels | Path, ...]
    labels: Labels

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels is not self.labels or labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(
                f"labels of {labels.dtype} {labels.shape}: give an int64 array with one class index for each image"
            )
        if len(self.images) != len(labels):
            raise DataError(f"{len(labels)} labels for {len(self.images)} images: give one label for each image")
        for index, image in enumerate(self.images):
            if not isinstance(image, Path):
                _check_pixels(index, image)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Return an RGB image, turned upright as its EXIF says."""
        source = self.images[index]
        if not isinstance(source, Path):
            return Image.fromarray(source)
        try:
            return decode(source.read_bytes())
        except (ImageError, OSError) as error:
            raise DataError(f"{source}: {error}; repair or remove the file") from None

    def inputs(self, indices: Sequence[int] | npt.NDArray[np.int64], transform: Transform) -> Tensor:
        """Return the transformed images as one tensor (len(indices), 3, H, W)."""
        return torch.stack([transform(self.image(int(index))) for index in indices])

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each image's pixels and shape, or of its file's bytes."""
        return tuple(hashlib.sha256(_content(source)).hexdigest() for source in self.images)

    def content_order(self) -> npt.NDArray[np.int64]:
        """Return the rows sorted by digest, then label; the order in which images are listed changes nothing."""
        return np.array(sorted(range(len(self)), key=lambda i: (self.digests[i], self.labels[i])), dtype=np.int64)


def _check_pixels(index: int, image: Pixels) -> None:
    pixels = np.asarray(image)
    if pixels is not image or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError(f"image {index} is {pixels.dtype} {pixels.shape}: give RGB pixels, uint8, height x width x 3")


def _content(source: Pixels | Path) -> bytes:
    if isinstance(source, Path):
        try:
            return source.read_bytes()
        except OSError as error:
            raise DataError(f"{source}: {error}; repair or remove the file") from None
    return repr(source.shape).encode() + source.tobytes()


def check_labels(name: str, labels: Labels, classes: int) -> None:
    """Raise `DataError` for a label that is not the index of a class."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"{name}: labels reach beyond 0..{classes - 1}: give one name for each class")


@dataclass(frozen=True)
class Dataset:
    """Train on `train`, choose by `validation`, and measure once on `test`."""

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(f"{self.name}: {len(self.classes)} class ({', '.join(self.classes)}): give at least two")
        if len(set(self.classes)) < len(self.classes):
            raise DataError(f"{self.name}: class names repeat: give each class its own name")
        for name in self.classes:
            if not name.strip() or len(name.splitlines()) != 1:
                raise DataError(f"{self.name}: class name {name!r} is not one line: rename the class")
        for split in (self.train, self.validation, self.test):
            check_labels(self.name, split.labels, len(self.classes))
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        if not counts.all():
            missing = self.classes[int(counts.argmin())]
            raise DataError(f"{self.name}: class {missing!r} has no training image: add some or leave the class out")
        if not len(self.test):
            raise DataError(f"{self.name}: no test image: give a test split, which accuracy is measured on")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the class names and, split by split, every image's digest and label in content order."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.validation, self.test):
            rows = sorted(zip(split.digests, split.labels.tolist(), strict=True))
            digest.update(repr(rows).encode())
        return digest.hexdigest()
