"""A task to learn: labelled images in three parts that share no image by construction of their source."""

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
from store.weights.preprocessing import decode

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Split:
    """Images (RGB pixels (H, W, 3), or files that are read when needed) and the index of each one's class."""

    images: tuple[Pixels | Path, ...]
    labels: Labels

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels is not self.labels or labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(
                f"labels of {labels.dtype} {labels.shape}: give an array of one class index an image, of int64"
            )
        if len(self.images) != len(labels):
            raise DataError(f"{len(labels)} labels for {len(self.images)} images: give one label for each image")
        for index, image in enumerate(self.images):
            if not isinstance(image, Path):
                _check_pixels(index, image)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Return an RGB image, upright."""
        source = self.images[index]
        if not isinstance(source, Path):
            return Image.fromarray(source)
        try:
            return decode(source.read_bytes())
        except (ImageError, OSError) as error:
            raise DataError(f"{source}: {error}; mend or remove the file") from None

    def inputs(self, indices: Sequence[int] | npt.NDArray[np.int64], transform: Transform) -> Tensor:
        """Stack transformed images: (len(indices), 3, H, W)."""
        return torch.stack([transform(self.image(int(index))) for index in indices])

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each image's pixels and shape, or of its file's bytes."""
        return tuple(hashlib.sha256(_content(source)).hexdigest() for source in self.images)

    def content_order(self) -> npt.NDArray[np.int64]:
        """Order the images by digest, then label: the same images give the same rows however they were listed."""
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
            raise DataError(f"{source}: {error}; mend or remove the file") from None
    return repr(source.shape).encode() + source.tobytes()


def check_labels(name: str, labels: Labels, classes: int) -> None:
    """Raise `DataError` where a label is no class's index."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"{name}: labels reach beyond 0..{classes - 1}: give one name a class")


@dataclass(frozen=True)
class Dataset:
    """Tune on `train`, watch `validation`, and measure once on `test`."""

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
        for part in (self.train, self.validation, self.test):
            check_labels(self.name, part.labels, len(self.classes))
        counts = np.bincount(self.train.labels, minlength=len(self.classes))
        if not counts.all():
            absent = self.classes[int(counts.argmin())]
            raise DataError(f"{self.name}: class {absent!r} has no image to train on: add some or leave it out")
        if not len(self.test):
            raise DataError(f"{self.name}: no image to test on: accuracy is measured on images not trained on")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the class names and, part by part, every image's digest and label in content order."""
        whole = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.validation, self.test):
            rows = sorted(zip(part.digests, part.labels.tolist(), strict=True))
            whole.update(repr(rows).encode())
        return whole.hexdigest()
