"""Load what the processes of Ray need once, and fork each of them from there: `python -m serving.cluster.fork_server`.

A replica that is needed, because another died or because there is more to do, would load Ray, torch and timm for five
seconds beside the load. A fork of this process has them, in memory that all forks share. Ray starts `fork_client.py` in
place of a worker; this process takes that one's arguments, environment and files, and the fork becomes the worker.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.cluster.fork_client import SETTING
from serving.cluster.no_compiler import without_compiler

PR_SET_PDEATHSIG = 1
STANDARD_FILES = (0, 1, 2)
BACKLOG = 128

BEFORE_RAY = "torch"
OF_EVERY_WORKER = (
    "ray._private.workers.default_worker", "ray.serve", "ray.serve._private.controller", "ray.serve._private.proxy",
    "ray.serve._private.haproxy", "ray.serve._private.replica",
)  # fmt: skip
OF_A_REPLICA = ("torchvision", "timm", "serving.app", "serving.replica")

OF_THIS_RAY = ("RAY_JOB_ID", "RAY_RAYLET_PID")
"""Variables that Ray reads once, as it is imported; they are the same for all its workers, and the first has them."""

IDS_OF_A_FORK = 1024
"""Ids that are drawn between two forks. A fork goes on where Ray's random numbers stand here, so two that begin at the
same place name their first objects alike, and the second worker to register with such an object ends.
"""

THREADS_OF_A_FORK = 128
"""Threads that draw an id between two forks. The numbers of a new thread have a seed from one of eight pools of the
process (Abseil's `RandenPool`), which a fork inherits as they stand: the n-th new thread that draws in one fork would
draw what the n-th does in each other. This moves the pools on by more threads than a worker has.
"""

EARLY = 2
"""Workers that are forked before everything is loaded: Serve's controller and a proxy need no more than Ray."""


@dataclass(frozen=True)
class Worker:
    """What Ray started, as its fork has to become it."""

    arguments: Sequence[str]
    environment: dict[str, str]
    folder: str
    files: Sequence[int]


class ForkServer:
    """A listener at which workers ask to be forked. In a fork, `run` returns the worker that it has to become."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(BACKLOG)

    def run(self) -> Worker:
        """Load everything, and fork for every worker that asks; the first as soon as they would load nothing more."""
        importlib.import_module(BEFORE_RAY)
        worker: Worker | None = self._first()
        for name in OF_EVERY_WORKER:
            importlib.import_module(name)
        with without_compiler():
            worker, is_fork = self._early(worker)
        if is_fork:
            assert worker is not None, "a fork has what it becomes"
            return worker
        gc.freeze()  # a collection in a fork would write to all that it shares
        while True:
            worker = worker or self._next()
            if _fork(worker):
                return worker
            worker = None

    def _early(self, worker: Worker | None) -> tuple[Worker | None, bool]:
        """Load what a replica needs besides; return the worker that waits, and whether this is its fork."""
        early = EARLY
        for name in OF_A_REPLICA:
            while early and worker is not None:
                if _fork(worker):
                    return worker, True
                early -= 1
                worker = self._waiting()
            importlib.import_module(name)
            worker = worker or self._waiting()
        return worker, False

    def close(self) -> None:
        """Do not listen in a fork: where the server has ended, a worker must notice."""
        self._listener.close()

    def _first(self) -> Worker:
        """Return the first worker, with what Ray gave it in this process's environment."""
        worker = self._next()
        os.environ.update({name: worker.environment[name] for name in OF_THIS_RAY})
        return worker

    def _waiting(self) -> Worker | None:
        """Return the next worker, None where none has asked."""
        return self._next() if select.select([self._listener], [], [], 0)[0] else None

    def _next(self) -> Worker:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if (worker := _read(connection)) is not None:
                    return worker


def _move_random_numbers_on() -> None:
    import ray  # not before the first worker's environment is there

    for _ in range(IDS_OF_A_FORK):
        ray.ObjectRef.from_random()
    for _ in range(THREADS_OF_A_FORK):
        drawing = threading.Thread(target=ray.ObjectRef.from_random)
        drawing.start()
        drawing.join()


def _fork(worker: Worker) -> bool:
    """Fork; return whether this process is the fork."""
    _move_random_numbers_on()
    if os.fork() == 0:
        return True
    _close(worker.files)
    return False


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _read(connection: socket.socket) -> Worker | None:
    """Return what the client sent; None where it ended before it had sent all of it."""
    data, files, _, _ = socket.recv_fds(connection, 1, len(STANDARD_FILES))
    while part := connection.recv(1 << 16):
        data += part
    try:
        said = json.loads(data)
    except ValueError:
        _close(files)
        return None
    return Worker(said["arguments"], said["environment"], said["folder"], files)


def become(worker: Worker) -> None:
    """Run the worker's program as a new process of Python would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for file, standard in zip(worker.files, STANDARD_FILES, strict=True):
        os.dup2(file, standard)
    _close(worker.files)
    os.environ.clear()
    os.environ.update(worker.environment)
    os.chdir(worker.folder)
    program = worker.arguments[0]
    sys.argv = list(worker.arguments)
    sys.path[0] = str(Path(program).parent)
    gc.enable()
    runpy.run_path(program, run_name="__main__")


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the server's process ends with it; the forks with Ray
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork: it must not stay as a zombie
    gc.disable()
    server = ForkServer(os.environ[SETTING])
    worker = server.run()
    server.close()
    become(worker)


if __name__ == "__main__":
    main()
