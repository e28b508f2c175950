"""Read images, labels and class names from an `.npz` file; report in one line what is wrong with it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sls.data.dataset import Labels, Pixels, Split
from sls.data.left_out import SHOWN, listed
from sls.data.raw import RawDataset
from sls.data.rows import NO_REGRESSION, NO_SEVERAL
from store.errors import DataError

NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y", "classes")
VALIDATION = ("validation", "val")
MAX_NBYTES = 16 << 30  # of all arrays
UNREADABLE = (ValueError, TypeError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)

Array = npt.NDArray[np.generic]


def read_npz(path: Path) -> RawDataset:
    """Return the class names, and the splits "train", "test" and, where there is `val_x`, "validation".

    Images are uint8, n x H x W or n x H x W x 3. Labels are class indices, whole numbers in any dtype, or class names.
    Raises `DataError`.
    """
    arrays, unused = _load(path)
    classes = _classes(arrays["classes"], path)
    splits = {
        "validation" if part in VALIDATION else part: _split(
            arrays[f"{part}_x"], arrays[f"{part}_y"], classes, f"{path}, {part}"
        )
        for part in ("train", *VALIDATION, "test")
        if f"{part}_x" in arrays
    }
    shown = listed(unused[:SHOWN], len(unused))
    notes = (f"left out, arrays of other names: {len(unused)} ({shown})",) if unused else ()
    return RawDataset(path.stem, classes, splits, notes)


def _load(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays that are used, and the names of the others."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = [key for key in NPZ_KEYS if key not in arrays]
            if missing:
                raise DataError(f"{path} has no array {missing[0]!r}: give {', '.join(NPZ_KEYS)}")
            nbytes = sum(member.file_size for member in arrays.zip.infolist())
            if nbytes > MAX_NBYTES:
                raise DataError(f"{path} unpacks to {nbytes:,} bytes, at most {MAX_NBYTES:,} are read: give a folder")
            names = [*NPZ_KEYS, *_validation_keys(path, set(arrays))]
            return {key: arrays[key] for key in names}, sorted(set(arrays) - set(names))
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a readable .npz ({error}): write it with numpy.savez") from None


def _validation_keys(path: Path, names: set[str]) -> list[str]:
    found = [f"{part}_{axis}" for part in VALIDATION for axis in "xy" if f"{part}_{axis}" in names]
    if found and (len(found) != 2 or found[0][:-2] != found[1][:-2]):
        raise DataError(f"{path} has {' and '.join(found)}: give val_x and val_y, both and once")
    return found


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
        several = labels.ndim == 2 and labels.dtype.kind in "biuf" and bool((labels.sum(axis=1) > 1).any())
        rule = f"not one-hot; {NO_SEVERAL}" if several else "not one-hot"
        raise DataError(f"{where}: labels of shape {labels.shape}: give one class index for each image, {rule}")
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
            f"{where}: label {labels[indices != labels][0]} is not a whole number: {NO_REGRESSION}, by index or name"
        )
    return indices
