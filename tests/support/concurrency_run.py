"""Many processes at work on one store: each runs operations drawn by a seed, and logs the answers.

Run by itself it imports no torch and forks before anything is opened, so sixteen processes are up within a second:
`work(workload)` starts it and returns the results, in no order between processes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from support.concurrency_operations import ALIASES, OPERATIONS, TASKS, OperationResult, Worker, Workload, collect, timed
from support.processes import importing, in_a_child

FIRST = "first"  # the process before all others, which gives each task its first version


def log_of(workload: Workload, name: str) -> Path:
    return Path(workload.logs) / f"{name}.jsonl"


def run_worker(workload: Workload, name: str, operations: list[Callable[[Worker], OperationResult]]) -> None:
    worker, end = Worker(workload, name), time.monotonic() + workload.seconds
    with log_of(workload, name).open("w") as log:
        for operation in operations:
            if time.monotonic() > end:
                break
            log.write(json.dumps(asdict(timed(worker, operation))) + "\n")
    worker.store.close()
    shutil.rmtree(worker.scratch)


def script(workload: Workload, index: int) -> list[Callable[[Worker], OperationResult]]:
    """Return what process number `index` does; the first one collects every fifth time, and no other does."""
    chosen = random.Random(f"{workload.seed} script {index}").choices(
        list(OPERATIONS), list(OPERATIONS.values()), k=workload.each
    )
    return [collect if index == 0 and n % 5 == 0 else operation for n, operation in enumerate(chosen, start=1)]


def first_versions(workload: Workload) -> None:
    run_worker(workload, FIRST, [lambda worker, task=task: worker.publish(task, FIRST, *ALIASES) for task in TASKS])


def main() -> None:
    workload = Workload(**json.loads(sys.argv[1]))
    codes = [in_a_child(lambda: first_versions(workload))]
    children = []
    for index in range(workload.processes):
        pid = os.fork()
        if pid == 0:
            os._exit(in_a_child(lambda index=index: run_worker(workload, f"worker-{index}", script(workload, index))))
        children.append(pid)
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sys.exit(max(codes))


def work(workload: Workload, *, timeout_s: float = 120.0) -> list[OperationResult]:
    """Run the whole workload and return the results; the store must exist and have the backbone."""
    Path(workload.logs).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "support.concurrency_run", json.dumps(asdict(workload))]
    with subprocess.Popen(command, env=importing(), start_new_session=True) as process:
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert code == 0, "a process failed: see its message above"
    names = [FIRST, *(f"worker-{index}" for index in range(workload.processes))]
    rows = [json.loads(line) for name in names for line in log_of(workload, name).read_text().splitlines()]
    return [
        OperationResult(**{**row, "moved": tuple(row["moved"]), "versions": tuple(row["versions"])}) for row in rows
    ]


if __name__ == "__main__":
    main()
