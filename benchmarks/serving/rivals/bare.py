"""The bare engine of a comparison: a process that measures when it is told to, and sleeps otherwise."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.serving.rivals.workload import Workload
from benchmarks.support.processes import environment


@dataclass(frozen=True)
class BareRun:
    """Images a second, and the p50 of a batch."""

    images_per_s: float
    p50_s: float


class BareEngine:
    """The engine on the backbone and the depths of the workload, with a thread a core."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._process: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[BareEngine]:
        depths = json.dumps(list(self._workload.depths.values()))
        command = [sys.executable, "-m", "benchmarks.serving.rivals.bare_engine", str(self._workload.store), depths]
        # As the command line sets it: threads that spin at a barrier lose their core to the client.
        env = {**environment(), "OMP_WAIT_POLICY": "PASSIVE"}
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            self._process = process
            try:
                yield self
            finally:
                process.kill()

    def run(self, rows: int, seconds: float) -> BareRun:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"rows": rows, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return BareRun(**json.loads(self._process.stdout.readline()))
