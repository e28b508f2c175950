"""Stand where Ray starts a worker: let the fork server make it, or start it as Ray does where that server has ended.

It runs without the rest of the project, and ends at once: Ray waits for the worker to register, not for this process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

SETTING = "ONETRUNK_FORK_SERVER"
STANDARD_FILES = (0, 1, 2)
NOT_THE_WORKERS = ("--serialized-runtime-env-context", "--language")


def main() -> None:
    try:
        _ask(os.environ[SETTING], sys.argv[1:])
    except (OSError, KeyError):  # the fork server has ended: a worker that loads everything itself is late, but there
        from ray._private.workers import setup_worker

        os.execv(sys.executable, [sys.executable, setup_worker.__file__, *sys.argv[1:]])


def _ask(path: str, arguments: list[str]) -> None:
    worker = {"arguments": program_of(arguments), "environment": dict(os.environ), "folder": str(Path.cwd())}
    data = json.dumps(worker).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        socket.send_fds(connection, [data[:1]], STANDARD_FILES)
        connection.sendall(data[1:])


def program_of(arguments: list[str]) -> list[str]:
    """Return the worker's program and its arguments: without flags of Python, and what is for Ray's `setup_worker`."""
    (begin, *_) = (index for index, each in enumerate(arguments) if not each.startswith("-"))
    return [each for each in arguments[begin:] if not each.startswith(NOT_THE_WORKERS)]


if __name__ == "__main__":
    main()
