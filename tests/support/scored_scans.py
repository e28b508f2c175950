"""Every criterion's score of real features, for several orders of the rows and numbers of threads."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from sls.scoring.criteria import CRITERIA

ORDERS, THREADS = 3, (1, 2)


def scans() -> tuple[np.ndarray, np.ndarray]:
    """Return 36 scans of handwritten digits, 4 of them copies: real features, with ties."""
    bunch = load_digits(n_class=4)
    rows = np.r_[0:32, 0:4]
    return bunch.data[rows].astype(np.float32), bunch.target[rows].astype(np.int64)


def scores_in_every_order() -> dict[str, list[str]]:
    """Return the scores of each criterion in hex, for each order of the rows and number of threads."""
    features, labels = scans()
    scores: dict[str, list[str]] = {name: [] for name in CRITERIA}
    for order in range(ORDERS):
        rows = np.random.default_rng(order).permutation(len(labels))
        for threads in THREADS:
            with threadpool_limits(threads):
                for name, criterion in CRITERIA.items():
                    scores[name].append(criterion.score(features[rows], labels[rows]).hex())
    return scores
