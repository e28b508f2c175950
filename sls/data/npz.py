"""Read images, labels and class names from an `.npz` file; report in one line what is wrong with it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sls.data.dataset import Labels, Pixels, Split
from store.errors import DataError

NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y", "classes")
UNREADABLE = (ValueError, TypeError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)

Array = npt.NDArray[np.generic]


def read_npz(path: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names, and the splits "train" and "test".

    Images are uint8, n x H x W or n x H x W x 3. Labels are class indices, whole numbers in any dtype, or class names.
    Raises `DataError`.
    """
    arrays = _load(path)
    classes = _classes(arrays["classes"], path)
    parts = {
        part: _split(arrays[f"{part}_x"], arrays[f"{part}_y"], classes, f"{path}, {part}") for part in ("train", "test")
    }
    return classes, parts


def _load(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}: give an .npz with {', '.join(NPZ_KEYS)}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in NPZ_KEYS if key not in arrays]
            if missing:
                raise DataError(f"{path} has no array {missing[0]!r}: give {', '.join(NPZ_KEYS)}")
            return {key: arrays[key] for key in NPZ_KEYS}
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable .npz ({error}): write it with numpy.savez") from None


def _classes(names: Array, path: Path) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise DataError(f"{path}: classes of {names.dtype} {names.shape}: give a list with one name for each class")
    if len(names) < 2:
        raise DataError(f"{path}: {len(names)} class ({', '.join(_texts(names))}): give at least two")
    return _texts(names)


def _texts(values: Array) -> tuple[str, ...]:
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.tolist())


def _split(images: Array, labels: Array, classes: tuple[str, ...], where: str) -> Split:
    if labels.ndim != 1:
        raise DataError(f"{where}: labels of shape {labels.shape}: give one class index for each image, not one-hot")
    if len(labels) != (len(images) if images.ndim else 0):
        raise DataError(f"{where}: {len(labels)} labels for images {images.shape}: give one label for each image")
    return Split(_pixels(images, where), _indices(labels, classes, where))


def _pixels(images: Array, where: str) -> tuple[Pixels, ...]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise DataError(f"{where}: images of {images.dtype} {images.shape}: give uint8, n x H x W or n x H x W x 3")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    return tuple(np.ascontiguousarray(image, dtype=np.uint8) for image in images)


def _indices(labels: Array, classes: tuple[str, ...], where: str) -> Labels:
    """Convert class names to indices, and whole numbers of any dtype to int64; raise `DataError` on anything else."""
    if labels.dtype.kind in "US":
        index = {name: label for label, name in enumerate(classes)}
        names = _texts(labels)
        unknown = sorted(set(names) - index.keys())
        if unknown:
            raise DataError(f"{where}: label {unknown[0]!r} is not among the classes: add it or correct the label")
        return np.array([index[name] for name in names], dtype=np.int64)
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{where}: labels of {labels.dtype}: give class indices or class names")
    inside = (labels >= 0) & (labels < len(classes))  # type: ignore[operator]  # numbers, as the line above saw
    if not inside.all():
        raise DataError(
            f"{where}: label {labels[~inside][0]} is not a class: labels reach beyond 0..{len(classes) - 1}; "
            "give one name for each class"
        )
    indices = labels.astype(np.int64)
    if (indices != labels).any():
        raise DataError(
            f"{where}: label {labels[indices != labels][0]} is not a whole number: give class indices or class names"
        )
    return indices
