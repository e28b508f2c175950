"""A dataset: labelled images in three splits, train, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sls.data.image_source import EncodedSource, place, read_encoded, unreadable
from store.adapters.checkpoint import LABELS, LIMITS, UNPRINTABLE
from store.errors import DataError, ImageError
from store.images.decoding import decode
from store.images.limits import check_size

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Split:
    """Images, as RGB pixels (H, W, 3) or encoded ones that are read when needed, and their class indices (n,)."""

    images: tuple[Pixels | EncodedSource, ...]
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
            if not isinstance(image, EncodedSource):
                _check_pixels(index, image)

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        """Return an RGB image, turned upright as its EXIF says."""
        source = self.images[index]
        if not isinstance(source, EncodedSource):
            return Image.fromarray(source)
        try:
            return decode(read_encoded(source))
        except ImageError as error:
            raise unreadable(source, error) from None

    def place(self, index: int) -> str:
        """Return how a message names the image."""
        source = self.images[index]
        return place(source) if isinstance(source, EncodedSource) else f"image {index}"

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
    try:
        check_size(pixels.shape[1], pixels.shape[0])
    except ImageError as error:
        raise DataError(f"image {index}: {error}") from None


def _content(source: Pixels | EncodedSource) -> bytes:
    if isinstance(source, EncodedSource):
        return read_encoded(source)
    return repr(source.shape).encode() + source.tobytes()


def check_class_names(name: str, classes: Sequence[str]) -> None:
    """Raise `DataError` for names that a published version could not keep."""
    if len(set(classes)) < len(classes):
        raise DataError(f"{name}: class names repeat: give each class its own name")
    for label in classes:
        if not label.strip() or len(label.splitlines()) != 1:
            raise DataError(f"{name}: class name {label!r} is not one line: rename the class")
        if not _is_utf8(label):
            raise DataError(f"{name}: class name {label!r} is not UTF-8: rename the class")
        if label != label.strip() or UNPRINTABLE.search(label):
            raise DataError(
                f"{name}: class name {label!r} has a space at an end or a control character: rename the class"
            )
    nbytes = sum(len(label.encode()) + 1 for label in classes)
    if nbytes > LIMITS[LABELS]:
        raise DataError(f"{name}: class names of {nbytes:,} bytes, at most {LIMITS[LABELS]:,}: shorten them")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate, as Python keeps a byte of a file's name that is not UTF-8
        return False
    return True


def check_labels(name: str, labels: Labels, classes: int) -> None:
    """Raise `DataError` for a label that is not the index of a class."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"{name}: labels reach beyond 0..{classes - 1}: give one name for each class")


@dataclass(frozen=True)
class Dataset:
    """Train on `train`, choose by `validation`, and measure once on `test`.

    `notes` says, a line each, what of the source was not used, and what else a user should know. `duplicates` counts
    the images that are in two splits or under two labels and that the caller allowed; None where nobody looked.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()
    duplicates: int | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(f"{self.name}: {len(self.classes)} class ({', '.join(self.classes)}): give at least two")
        check_class_names(self.name, self.classes)
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
