"""How well a block's features separate the classes: t-SNE to two dimensions, then the silhouette of the true labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

PERPLEXITY = 30


def obstacle(features: Floats, labels: Labels) -> str | None:
    """Say why these samples (n x d, or blocks x n x d) have no score, or None where they have one."""
    samples, classes = len(labels), len(np.unique(labels))
    if classes < 2:
        return f"{classes} class among {samples} samples: the score compares at least two"
    if samples <= PERPLEXITY or samples <= classes:
        return f"{samples} samples of {classes} classes: the score needs more than {max(PERPLEXITY, classes)}"
    if not np.isfinite(features).all():
        return "a feature is not a finite number: the model has diverged"
    return None


def tsne_silhouette(features: Floats, labels: Labels, *, seed: int = 0) -> float:
    """s = mean_k (b_k - a_k) / max(a_k, b_k) over 2-D t-SNE coordinates (n x d -> n x 2), clusters = labels.

    One thread and an explicit start make it a function of its arguments on one machine; the order of the
    rows is one of them. NaN where all samples are equal.
    """
    with threadpool_limits(1):
        start = principal_axes(features)
        if start is None:
            return float("nan")
        return float(silhouette_score(_tsne(features, start, seed), labels))


def authors_silhouette(features: Floats, labels: Labels, *, seed: int = 0) -> float:
    """As the authors' code: scikit-learn's own start, each axis scaled to 0..1 before the silhouette."""
    with threadpool_limits(1):
        if not np.ptp(features, axis=0).any():
            return float("nan")
        points = _tsne(features, "pca", seed)
        points = (points - points.min(axis=0)) / np.ptp(points, axis=0)
        return float(silhouette_score(points, labels))


CRITERIA: Mapping[str, Callable[..., float]] = MappingProxyType(
    {"tsne-silhouette": tsne_silhouette, "tsne-silhouette-authors": authors_silhouette}
)


def principal_axes(features: Floats) -> npt.NDArray[np.float32] | None:
    """X_c = U S V^T, start = U_2 S_2 scaled to a standard deviation of 1e-4 on the first axis; None where X_c = 0.

    A full decomposition in float64 with each axis' largest loading positive: scikit-learn's own start is
    randomised above 500 samples, so it hangs on the seed.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    if not centred.any():
        return None
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    axes = left[:, :2] * sizes[:2] * signs
    return np.asarray(axes / axes[:, 0].std() * 1e-4, dtype=np.float32)


def _tsne(features: Floats, start: npt.NDArray[np.float32] | str, seed: int) -> npt.NDArray[np.float32]:
    model = TSNE(n_components=2, init=start, random_state=seed, perplexity=PERPLEXITY)
    return np.asarray(model.fit_transform(features.astype(np.float32)), dtype=np.float32)
