"""Run the servers of one plan until standard input ends: `python -m serving.cluster.main PLAN`.

The process that starts it reads one line of JSON from its standard output, `{"ready": URL}` or `{"error": KIND,
"message": TEXT}`. Whatever ends that process ends this one, and with it all that this one started: its processes, and
the folder in which every file of them is.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import TextIO

from serving.cluster import own_ray
from serving.cluster.descendants import adopt_orphans, end_all
from serving.cluster.lifeline import Lifeline
from serving.cluster.log_relay import LogRelay
from serving.cluster.plan import ServerPlan
from store.errors import OnetrunkError

START_S = 600.0
"""Time until a Ray of our own and a replica are ready; a large backbone from a bucket takes minutes."""

STOP_S = 3.0
"""Time to answer what was admitted; then everything is killed."""


class OwnProcesses:
    """All that this process starts and writes, in one place and removable at once from any thread."""

    def __init__(self) -> None:
        adopt_orphans()
        self.folder: Path | None = None

    def leave(self) -> None:
        """Kill and remove everything, and end."""
        self.clean()
        os._exit(0)

    def clean(self) -> None:
        end_all()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    gc.disable()  # as in a replica, for the imports; little is made afterwards
    answers = _take_stdout()
    own = OwnProcesses()
    lifeline = Lifeline(own.leave, grace_s=STOP_S)
    plan = ServerPlan.from_json(sys.argv[1])
    limit = threading.Timer(START_S, _give_up, (answers, own))
    limit.daemon = True
    try:
        if plan.ray_address is None:
            limit.start()
            own.folder = own_ray.make_folder(plan)
            _log_to(own.folder / "log")
            if plan.log is not None:
                plan = plan.with_log(str(LogRelay(own.folder, plan.log).path))
            own_ray.start(plan, own.folder)
        _serve(plan, lifeline, answers, limit)
    except OnetrunkError as error:
        _answer(answers, error=type(error).__name__, message=str(error))
    except Exception as error:  # of Ray, whose errors have no common base; the process that waits must be told
        _answer(answers, error="ServerError", message=_last_line(error))
    finally:
        own.clean()
        os._exit(0)


def _give_up(answers: TextIO, own: OwnProcesses) -> None:
    """Say so and end, on a thread of its own: the main one waits for Ray."""
    _answer(answers, error="ServerError", message=f"the server is not ready after {START_S:g} s: start it again")
    own.leave()


def _serve(plan: ServerPlan, lifeline: Lifeline, answers: TextIO, limit: threading.Timer) -> None:
    from serving.cluster.applications import Applications  # imports Ray, whose settings are in the environment now

    applications = Applications(plan)
    with applications:
        url = applications.start()
        limit.cancel()
        lifeline.hold()
        _answer(answers, ready=url)
        applications.scale()
        gc.enable()
        lifeline.wait()


def _answer(answers: TextIO, **fields: str) -> None:
    try:
        print(json.dumps(fields), file=answers, flush=True)  # this is the protocol
    except BrokenPipeError:
        return


def _take_stdout() -> TextIO:
    """Keep standard output for the protocol: what libraries print goes where their errors go."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _log_to(path: Path) -> None:
    """Send what Ray says of its own accord to a file: what went wrong is in the errors that it raises."""
    with path.open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)


def _last_line(error: Exception) -> str:
    """Return the line of a traceback of Ray that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


if __name__ == "__main__":
    main()
