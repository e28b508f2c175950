"""Run the jobs of one pool over Ray until standard input ends: `python -m serving.cluster.task_main PLAN`.

A line of standard input is a job; a line of standard output is what became known of one. Whatever ends the process that
writes and reads them ends this one, and with it all that this one started.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TextIO

from serving.cluster import own_ray
from serving.cluster.own_processes import OwnProcesses, answer, last_line, log_to, take_stdout
from serving.cluster.task_plan import FAILED, Payload, TaskPlan
from store.errors import OnetrunkError

POLL_S = 0.05
TRIES = 3
"""How often a job is begun whose process dies, as of too little memory."""

Jobs = SimpleQueue[tuple[int, Payload]]


def main() -> None:
    answers = take_stdout()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    own = OwnProcesses()
    signal.signal(signal.SIGTERM, lambda *_: own.leave())
    jobs: Jobs = SimpleQueue()
    Thread(target=_read, args=(jobs, own), name="jobs", daemon=True).start()
    plan = TaskPlan.from_json(sys.argv[1])
    try:
        _connect(plan, own)
        from serving.cluster.dispatcher import Dispatcher  # imports Ray, whose settings are in the environment now

        _run(Dispatcher(plan), jobs, answers)
    except OnetrunkError as error:
        answer(answers, error=type(error).__name__, message=str(error))
    except Exception as error:  # of Ray, whose errors have no common base; the process that waits must be told
        answer(answers, error="ServerError", message=last_line(error))
    finally:
        own.clean()
        os._exit(0)


def _read(jobs: Jobs, own: OwnProcesses) -> None:
    """Queue the jobs as they come; the end of them is the end of this process."""
    for line in sys.stdin:
        said = json.loads(line)
        jobs.put((said["job"], said["payload"]))
    own.leave()


def _connect(plan: TaskPlan, own: OwnProcesses) -> None:
    if plan.ray_address is None:
        assert plan.workers is not None
        own.folder = own_ray.make_folder()
        log_to(own.folder / "log")
        own_ray.start_for_tasks(own.folder, cpus=plan.workers * plan.threads)
        return
    from serving.cluster import shared_ray

    shared_ray.join(plan.ray_address, setting="", otherwise="leave it out to start a Ray on this machine")


def _run(dispatcher: Any, jobs: Jobs, answers: TextIO) -> None:
    waiting: deque[tuple[int, Payload]] = deque()
    tries: dict[int, int] = {}
    payloads: dict[int, Payload] = {}
    while True:
        with suppress(Empty):
            waiting.append(jobs.get(timeout=POLL_S if dispatcher.running or waiting else None))
        while waiting and dispatcher.has_room:
            job, payload = waiting.popleft()
            payloads[job], tries[job] = payload, tries.get(job, 0) + 1
            dispatcher.start(job, payload)
        for event in dispatcher.poll():
            if event.kind == "lost" and tries[event.job] < TRIES:
                waiting.append((event.job, payloads[event.job]))
                continue
            kind = FAILED if event.kind == "lost" else event.kind
            answer(answers, job=event.job, kind=kind, value=event.value)


if __name__ == "__main__":
    main()
