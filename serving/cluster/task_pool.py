"""Run many jobs on processes: on this machine, or on the Ray cluster that an address names.

A process of its own runs Ray, and ends with all that it started when this one does. This one needs neither Ray nor
torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from serving.cluster.task_plan import PROGRESS, Event, Payload, TaskPlan, make_work, stream
from store import errors
from store.errors import ServerError

STOP_S = 10.0


class TaskPool(Protocol):
    """Jobs that are submitted, and what becomes known of them."""

    def submit(self, job: int, payload: Payload) -> None:
        """Queue a job under a number of the caller's."""

    def events(self) -> Iterator[Event]:
        """Yield what happens until every job that was submitted, also meanwhile, is done or has failed."""


@contextmanager
def task_pool(plan: TaskPlan) -> Iterator[TaskPool]:
    """Run jobs over Ray until the block ends; with no workers, in this process, one after the other.

    Raises `ServerError` where Ray does not start or cannot be joined.
    """
    if plan.workers == 0:
        here = _Here(plan)
        try:
            yield here
        finally:
            here.stopped.set()
        return
    process = _start(plan)
    try:
        yield _OverRay(process)
    finally:
        _stop(process)


class _Here:
    """Jobs in this process."""

    def __init__(self, plan: TaskPlan) -> None:
        self._plan = plan
        self._waiting: list[tuple[int, Payload]] = []
        self.stopped = threading.Event()

    def submit(self, job: int, payload: Payload) -> None:
        self._waiting.append((job, payload))

    def events(self) -> Iterator[Event]:
        work = make_work(self._plan.function, self._plan.settings)
        while self._waiting:
            job, payload = self._waiting.pop(0)
            for kind, value in stream(work, payload, self.stopped):
                yield Event(job, kind, value)


class _OverRay:
    """Jobs of the process that runs Ray: one line of JSON for each that is submitted, and for each event."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._waiting = 0

    def submit(self, job: int, payload: Payload) -> None:
        assert self._process.stdin is not None, "it was asked for"
        try:
            print(json.dumps({"job": job, "payload": payload}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        self._waiting += 1

    def events(self) -> Iterator[Event]:
        assert self._process.stdout is not None, "it was asked for"
        while self._waiting:
            line = self._process.stdout.readline()
            if not line:
                raise self._ended()
            answer = json.loads(line)
            if "job" not in answer:
                raise getattr(errors, answer["error"], ServerError)(answer["message"])
            self._waiting -= answer["kind"] != PROGRESS
            yield Event(answer["job"], answer["kind"], answer["value"])

    def _ended(self) -> ServerError:
        return ServerError("Ray ended before all jobs were done: give the same command again, and it goes on")


def _start(plan: TaskPlan) -> subprocess.Popen[str]:
    # The folder of our packages first: the other process must run this code, wherever it was imported from.
    ours = str(Path(__file__).parents[2])
    path = os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "serving.cluster.task_main", plan.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C in a terminal is for this process, which then ends that one
        text=True,
    )


def _stop(process: subprocess.Popen[str]) -> None:
    """End it, and wait until nothing of it is left."""
    assert process.stdin is not None, "it was asked for"
    assert process.stdout is not None, "it was asked for"
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
