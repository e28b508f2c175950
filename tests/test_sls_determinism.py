from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from sls.criteria import CRITERIA

RUNS, ORDERS, THREADS = 3, 3, (1, 2)


def scans() -> tuple[np.ndarray, np.ndarray]:
    """32 scans of handwritten digits, 4 of them twice: real features, with ties."""
    bunch = load_digits(n_class=4)
    rows = np.r_[0:32, 0:4]
    return bunch.data[rows].astype(np.float32), bunch.target[rows].astype(np.int64)


def every_way() -> dict[str, list[str]]:
    """Each criterion's score in every bit, for each order of the rows and number of threads."""
    features, labels = scans()
    found: dict[str, list[str]] = {name: [] for name in CRITERIA}
    for order in range(ORDERS):
        rows = np.random.default_rng(order).permutation(len(labels))
        for threads in THREADS:
            with threadpool_limits(threads):
                for name, criterion in CRITERIA.items():
                    found[name].append(criterion.score(features[rows], labels[rows]).hex())
    return found


@pytest.fixture(scope="module")
def runs() -> list[dict[str, list[str]]]:
    """The same here and in fresh processes, which start with other numbers of threads."""
    code = "from test_sls_determinism import *; print(json.dumps(every_way()))"
    outputs = [every_way()]
    for run in range(1, RUNS):
        own = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": str(run), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=True)
        outputs.append(json.loads(done.stdout))
    return outputs


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_no_order_of_rows_no_number_of_threads_and_no_run_changes_a_bit_of_the_score(runs, name):
    scores = [score for run in runs for score in run[name]]
    assert len(scores) == RUNS * ORDERS * len(THREADS)
    assert set(scores) == {scores[0]}
    assert np.isfinite(float.fromhex(scores[0]))
