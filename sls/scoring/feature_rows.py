"""Rows of features with their labels: check them, and sort them by content."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from store.errors import DataError

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]


def check_rows(features: Floats, labels: Labels) -> None:
    """Raise `DataError` unless features are (..., n, d) with d >= 2, for n >= 1 labels."""
    if labels.ndim != 1 or not len(labels):
        raise DataError(f"labels of shape {labels.shape}: give one class index for each row, and at least one row")
    if features.ndim < 2 or features.shape[-2] != len(labels):
        raise DataError(f"{len(labels)} labels for features of shape {features.shape}: give one label for each row")
    if features.shape[-1] < 2:
        raise DataError(f"features of width {features.shape[-1]}: give features of at least two dimensions")


def content_order(features: Floats, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the order of the rows (n, d) by bytes, then by label: it makes the same rows in any order the same array.

    Rows with equal bytes and labels may be swapped, which changes nothing.
    """
    rows = [row.tobytes() for row in features]
    return np.array(sorted(range(len(rows)), key=lambda i: (rows[i], labels[i])), dtype=np.int64)
