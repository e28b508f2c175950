from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.scored_scans import ORDERS, THREADS, every_way

from sls.scoring.criteria import CRITERIA

RUNS = 3


@pytest.fixture(scope="module")
def runs() -> list[dict[str, list[str]]]:
    """The same here and in fresh processes, which start with other numbers of threads."""
    code = "import json; from support.scored_scans import every_way; print(json.dumps(every_way()))"
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
