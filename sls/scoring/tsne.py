"""The paper's score: t-SNE to two dimensions, then the silhouette of the true labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from sls.scoring.feature_rows import Floats, Labels

PERPLEXITY = 30
SEED = 0
"""The authors' random_state. It changes nothing here, as the start is given."""


def tsne_silhouette(features: Floats, labels: Labels) -> float:
    """s = mean_k (b_k - a_k) / max(a_k, b_k) over 2-D t-SNE coordinates (n x d -> n x 2), clusters = labels.

    One thread and an explicit start make it a function of its arguments, the order of the rows included, on one
    machine. NaN if all samples are equal.
    """
    points = tsne_points(features)
    return float("nan") if points is None else float(silhouette_score(points, labels))


def authors_silhouette(features: Floats, labels: Labels) -> float:
    """The authors' code: scikit-learn's start, random_state 0, each axis scaled to 0..1 before the silhouette."""
    if not np.ptp(features, axis=0).any():
        return float("nan")
    points = _tsne(features, "pca")
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
    return float(silhouette_score(points, labels))


def tsne_points(features: Floats) -> npt.NDArray[np.float32] | None:
    """2-D t-SNE coordinates (n x 2) of features (n x d), in the order of the rows; None if all are equal."""
    start = principal_axes(features)
    return None if start is None else _tsne(features, start)


def principal_axes(features: Floats) -> npt.NDArray[np.float32] | None:
    """X_c = U S V^T, start = U_2 S_2 scaled to a standard deviation of 1e-4 on the first axis; None if X_c = 0.

    A full decomposition in float64 with the largest loading of each axis positive: scikit-learn's own start depends on
    the seed above 500 samples, where it is randomised.
    """
    if not np.ptp(features, axis=0).any():
        return None
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    with threadpool_limits(1):
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    axes = left[:, :2] * sizes[:2] * signs
    return np.asarray(axes / axes[:, 0].std() * 1e-4, dtype=np.float32)


def _tsne(features: Floats, start: npt.NDArray[np.float32] | str) -> npt.NDArray[np.float32]:
    model = TSNE(n_components=2, init=start, random_state=SEED, perplexity=PERPLEXITY)
    with threadpool_limits(1):
        return np.asarray(model.fit_transform(features.astype(np.float32)), dtype=np.float32)
