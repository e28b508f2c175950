"""How well a block's features tell the classes apart: seven criteria, each a function of the rows alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits

from sls.scoring.feature_rows import Floats, Labels, check_rows, content_order
from sls.scoring.ridge import ridge_head
from sls.scoring.tsne import PERPLEXITY, authors_silhouette, tsne_silhouette

Doubles = npt.NDArray[np.float64]
Formula = Callable[[npt.NDArray[np.float32], Labels], float]

NEIGHBOURS, TEMPERATURE = 20, 0.07
CHUNK = 1024
"""Rows whose similarities to all others are in memory at once."""


@dataclass(frozen=True)
class Criterion:
    """A score of one block's features, and the rule by which a depth is chosen from the scores.

    `score(features, labels, *, seed=0)` takes (n, dim) float32 and (n,) int64, and returns NaN if it is undefined. The
    order of the rows, the threads and the run change nothing; the seed neither, as no criterion draws. `alpha` is the
    default share, or None. `view` names the features that are scored: "scored", pool(x_i), or "served",
    pool(norm(x_i)). A score closer to the threshold than `noise` is undecided. The score needs `least` samples, and
    more samples than classes.
    """

    name: str
    score: Callable[..., float]
    view: Literal["scored", "served"]
    noise: float
    source: str
    least: int = 2
    alpha: float | None = None

    @property
    def rule(self) -> Literal["share", "tolerance"]:
        """Scan from the top with T = alpha * s_N; or the smallest depth with s_i >= max_j s_j - max(tolerance, SE)."""
        return "tolerance" if self.alpha is None else "share"


def obstacle(features: Floats, labels: Labels, *, least: int) -> str | None:
    """Return why features (n, d) have no score that needs `least` samples, or None if they have one.

    Raises `DataError` unless there is one label for each sample.
    """
    check_rows(features, labels)
    samples, classes = len(labels), len(np.unique(labels))
    if classes < 2:
        return f"{classes} class among {samples} samples: the score compares at least two"
    if samples < least or samples <= classes:
        return f"{samples} samples of {classes} classes: the score needs more than {max(least - 1, classes)}"
    if not np.isfinite(features).all():
        return "a feature is not a finite number: the model has diverged"
    return None


# ------------------------------------------------------------------------------------------------------- the formulas


def nearest_class_mean(features: npt.NDArray[np.float32], labels: Labels) -> float:
    """Share of rows whose own class mean, taken without them, is nearest: |x - m_c^-x| = n_c / (n_c - 1) |x - m_c|.

    The only row of a class has no such mean, and counts as wrong.
    """
    x, y, counts = _centred(features, labels)
    means = np.stack([x[y == c].mean(axis=0) for c in range(len(counts))])
    squares = (x**2).sum(axis=1)[:, None] - 2 * x @ means.T + (means**2).sum(axis=1)
    n = counts[y].astype(np.float64)
    others = np.maximum(n - 1, 1)
    same_class = np.arange(len(y)), y
    squares[same_class] = np.where(n > 1, squares[same_class] * (n / others) ** 2, np.inf)
    return float((squares.argmin(axis=1) == y).mean())


def ridge_probe(features: npt.NDArray[np.float32], labels: Labels) -> float:
    """Leave-one-out accuracy of the closed-form head."""
    names, y = np.unique(labels, return_inverse=True)
    return ridge_head(features, y.astype(np.int64), len(names)).leave_one_out


def nearest_neighbours(features: npt.NDArray[np.float32], labels: Labels) -> float:
    """Share of rows that their 20 nearest neighbours by cosine classify right, with votes of exp(cos / 0.07)."""
    x = features.astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    names, y = np.unique(labels, return_inverse=True)
    right, count = 0, min(NEIGHBOURS, len(x) - 1)
    for start in range(0, len(x), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(x)))
        cosine = x[rows] @ x.T
        cosine[rows - start, rows] = -np.inf
        near = np.argpartition(cosine, -count, axis=1)[:, -count:]
        votes = np.zeros((len(rows), len(names)))
        weights = np.exp((np.take_along_axis(cosine, near, axis=1) - 1) / TEMPERATURE)
        np.add.at(votes, (np.arange(len(rows))[:, None], y[near]), weights)
        right += int((votes.argmax(axis=1) == y[rows]).sum())
    return right / len(x)


def raw_silhouette(features: npt.NDArray[np.float32], labels: Labels) -> float:
    """s = mean_k (b_k - a_k) / max(a_k, b_k) over the features themselves; 0 for the only row of a class."""
    return float(silhouette_score(features.astype(np.float64), labels))


def linear_cka(features: npt.NDArray[np.float32], labels: Labels) -> float:
    """|YᵀX|² / (|XᵀX| |YᵀY|) in Frobenius norms, for centred features X and centred one-hot labels Y."""
    x, y, counts = _centred(features, labels)
    targets = np.eye(len(counts))[y] - counts / len(y)
    products = x.T @ x if len(x) >= x.shape[1] else x @ x.T
    spread = np.linalg.norm(products) * np.linalg.norm(targets.T @ targets)
    return float(np.linalg.norm(targets.T @ x) ** 2 / spread)


def _centred(features: npt.NDArray[np.float32], labels: Labels) -> tuple[Doubles, Labels, Labels]:
    """Features less their mean, labels as 0..classes-1, and the count of each class."""
    x = features.astype(np.float64)
    _, y, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return x - x.mean(axis=0), y, counts


# ---------------------------------------------------------------------------------------------------------- the table


def _order_invariant(formula: Formula, least: int) -> Callable[..., float]:
    """Return a score that sorts the rows by content and runs on one thread, and is NaN if there is no score."""

    def score(features: npt.NDArray[np.float32], labels: Labels, *, seed: int = 0) -> float:  # noqa: ARG001  none draws
        if obstacle(features, labels, least=least) or not np.ptp(features, axis=0).any():
            return float("nan")
        order = content_order(features, labels)
        with threadpool_limits(1):
            return formula(features[order], labels[order])

    return score


SLS = "Han and Tang, Straightforward Layer-wise Pruning, ECCV 2024, arXiv 2407.14330"
SHARES: Mapping[str, tuple[Formula, float, float, int, str]] = {
    "sls": (tsne_silhouette, 0.3, 0.05, PERPLEXITY + 1, f"{SLS}, feature evaluation by t-SNE and silhouette"),
    "sls-authors": (authors_silhouette, 0.3, 0.03, PERPLEXITY + 1, f"the code of {SLS}: visualization.py, prune.py"),
    "silhouette": (raw_silhouette, 0.3, 0.0, 2, "Rousseeuw, Silhouettes, J. Comput. Appl. Math. 20 (1987), section 2"),
    "cka": (
        linear_cka,
        0.7,
        0.0,
        2,
        "Kornblith et al., Similarity of representations revisited, ICML 2019, linear CKA",
    ),
}
"""Scores without a unit, of the features that the paper scores: the threshold is a share of the last block's score.

The share is the paper's 0.3, except for CKA, which falls more slowly from the top: 0.3 cut too deep (docs/sls.md).

The noise of t-SNE is two standard deviations of s_i - 0.3 s_N over orders of the rows, which stand in for differences
in the last bits. It was measured at the block with the greatest one, with the packaged backbone on embedded datasets
and 250 and 400 samples: the standard deviations are 0.023 and 0.015.
"""
ACCURACIES: Mapping[str, tuple[Formula, str]] = {
    "ncm": (nearest_class_mean, "Ben-Shaul and Dekel, Nearest class-center simplification, arXiv 2201.08924"),
    "ridge": (ridge_probe, "Allen, The relationship between variable selection and prediction, 1974: PRESS"),
    "knn": (nearest_neighbours, "Wu et al., Unsupervised feature learning, CVPR 2018, eq. 6 and 3.4: weighted kNN"),
}
"""Leave-one-out accuracies of the features that the head sees: a depth is chosen by the accuracy that it loses."""

CRITERIA: Mapping[str, Criterion] = MappingProxyType(
    {
        name: Criterion(name, _order_invariant(formula, least), "scored", noise, source, least, alpha)
        for name, (formula, alpha, noise, least, source) in SHARES.items()
    }
    | {
        name: Criterion(name, _order_invariant(formula, 2), "served", 0.0, source)
        for name, (formula, source) in ACCURACIES.items()
    }
)
