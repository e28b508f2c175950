"""A linear head in closed form, with its exact leave-one-out accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sls.scoring.feature_rows import Labels, check_rows, content_order
from store.errors import DataError

Doubles = npt.NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in np.arange(-4, 2.5, 0.5))
"""Shares of the mean square of a centred feature, times n: 1e-4 to 100 in half decades."""


@dataclass(frozen=True)
class RidgeHead:
    """logits = weight z + bias, for the feature z (dim,) that the head sees.

    `weight` (classes, dim) and `bias` (classes,) are float32. `penalty` is the lambda that was added to the scatter
    matrix; `leave_one_out` is the share (0..1) of rows that a head fitted without them classifies right.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    leave_one_out: float


def ridge_head(features: npt.NDArray[np.float32], labels: Labels, classes: int) -> RidgeHead:
    """min_W,b sum_k |W z_k + b - y_k|^2 + lambda |W|^2 for one-hot y; z (n, dim), labels (n,) in 0..classes-1.

    lambda is the one of 13 with the least leave-one-out squared error, the greatest of equal ones. The result does not
    depend on the order of the rows; it is computed on one thread. Raises `DataError` for labels that do not fit, fewer
    than two rows, and features that are not finite numbers.
    """
    check_rows(features, labels)
    if len(labels) < 2:
        raise DataError("1 row to fit a head to: leave-one-out needs at least two, give more")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(f"labels of {labels.min()}..{labels.max()} for {classes} classes: give 0..{classes - 1}")
    if not np.isfinite(features).all():
        raise DataError("a feature is not a finite number, so no head can be fitted: tune with a lower learning rate")
    order = content_order(features, labels)
    with threadpool_limits(1):
        return _solve(features[order].astype(np.float64), labels[order], classes)


def _solve(z: Doubles, labels: Labels, classes: int) -> RidgeHead:
    """With X = Z - mean and Xᵀ X = V diag(e) Vᵀ: prediction of all rows is mean(y) + X V diag(1/(e + lambda)) (XV)ᵀ Y.

    H = 1/n + X (XᵀX + lambda I)^-1 Xᵀ; the residual of row k fitted without it is (y_k - p_k) / (1 - H_kk).
    """
    n, centre, prior = len(z), z.mean(axis=0), np.bincount(labels, minlength=classes) / len(z)
    targets = np.eye(classes)[labels] - prior
    projected, axes, sizes = _principal(z - centre)
    moments = projected.T @ targets
    best: tuple[float, float, float] | None = None
    for share in reversed(PENALTIES):
        penalty = share * float(sizes.sum()) / z.shape[1] or 1.0
        shrunk = 1 / (sizes + penalty)
        left = 1 - 1 / n - (projected**2) @ shrunk
        residual = (targets - projected @ (shrunk[:, None] * moments)) / left[:, None]
        error = float((residual**2).sum())
        if best is None or error < best[0]:
            right = ((targets - residual + prior).argmax(axis=1) == labels).mean()
            best = (error, penalty, float(right))
    assert best is not None
    _, penalty, accuracy = best
    weight = (axes @ (moments / (sizes + penalty)[:, None])).T
    bias = prior - weight @ centre
    return RidgeHead(torch.from_numpy(weight).float(), torch.from_numpy(bias).float(), penalty, accuracy)


def _principal(x: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """X V (n, r), V (d, r) and e (r,) of XᵀX = V diag(e) Vᵀ, from the smaller of the two products; e > 0 only."""
    n, d = x.shape
    sizes, vectors = np.linalg.eigh(x.T @ x if n >= d else x @ x.T)
    kept = sizes > sizes[-1] * max(n, d) * np.finfo(np.float64).eps
    sizes, vectors = sizes[kept], vectors[:, kept]
    if n >= d:
        return x @ vectors, vectors, sizes
    return vectors * np.sqrt(sizes), x.T @ vectors / np.sqrt(sizes), sizes
