"""Every criterion's score of real features, whatever the order of the rows and the number of threads."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from sls.scoring.criteria import CRITERIA

ORDERS, THREADS = 3, (1, 2)


def scans() -> tuple[np.ndarray, np.ndarray]:
    """32 scans of handwritten digits, 4 of them twice: real features, with ties."""
    bunch = load_digits(n_class=4)
    rows = np.r_[0:32, 0:4]
    return bunch.data[rows].astype(np.float32), bunch.target[rows].astype(np.int64)


def every_way() -> dict[str, list[str]]:
    """Return each criterion's scores to the last bit, for each order of the rows and number of threads."""
    features, labels = scans()
    found: dict[str, list[str]] = {name: [] for name in CRITERIA}
    for order in range(ORDERS):
        rows = np.random.default_rng(order).permutation(len(labels))
        for threads in THREADS:
            with threadpool_limits(threads):
                for name, criterion in CRITERIA.items():
                    found[name].append(criterion.score(features[rows], labels[rows]).hex())
    return found
