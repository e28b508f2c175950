"""Run the servers of one plan until standard input ends: `python -m serving.cluster.main PLAN`.

The process that starts it reads one line of JSON from its standard output, `{"ready": URL}` or `{"error": KIND,
"message": TEXT}`. Whatever ends that process ends this one, and with it all that this one started: its processes, and
the folder in which every file of them is.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import TextIO

from serving.cluster import own_ray
from serving.cluster.lifeline import Lifeline
from serving.cluster.log_relay import LogRelay
from serving.cluster.own_processes import OwnProcesses, answer, last_line, log_to, take_stdout
from serving.cluster.plan import ServerPlan
from serving.cluster.refusal_log import RefusalLog
from store.errors import OnetrunkError

START_S = 600.0
"""Time until a Ray of our own and a replica are ready; a large backbone from a bucket takes minutes."""

STOP_S = 3.0
"""Time to answer what was admitted; then everything is killed."""


def main() -> None:
    gc.disable()  # as in a replica, for the imports; little is made afterwards
    answers = take_stdout()
    own = OwnProcesses()
    lifeline = Lifeline(own.leave, grace_s=STOP_S)
    plan = ServerPlan.from_json(sys.argv[1])
    limit = threading.Timer(START_S, _give_up, (answers, own))
    limit.daemon = True
    try:
        if plan.ray_address is None:
            limit.start()
            own.folder = own_ray.make_folder(plan.ingress)
            log_to(own.folder / "log")
            log = None if plan.log is None else str(LogRelay(own.folder, plan.log).path)
            RefusalLog(own.folder, log)
            if log is not None:
                plan = plan.with_log(log)
            own_ray.start(plan, own.folder)
        _serve(plan, lifeline, answers, limit)
    except OnetrunkError as error:
        answer(answers, error=type(error).__name__, message=str(error))
    except Exception as error:  # of Ray, whose errors have no common base; the process that waits must be told
        answer(answers, error="ServerError", message=last_line(error))
    finally:
        own.clean()
        os._exit(0)


def _give_up(answers: TextIO, own: OwnProcesses) -> None:
    """Say so and end, on a thread of its own: the main one waits for Ray."""
    answer(answers, error="ServerError", message=f"the server is not ready after {START_S:g} s: start it again")
    own.leave()


def _serve(plan: ServerPlan, lifeline: Lifeline, answers: TextIO, limit: threading.Timer) -> None:
    from serving.cluster.applications import Applications  # imports Ray, whose settings are in the environment now

    applications = Applications(plan)
    with applications:
        url = applications.start()
        limit.cancel()
        lifeline.hold()
        answer(answers, ready=url)
        applications.scale()
        gc.enable()
        lifeline.wait()


if __name__ == "__main__":
    main()
