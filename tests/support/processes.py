"""Other processes: forked ones, which may be another user or die, and fresh ones that import what the tests do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def importing() -> dict[str, str]:
    """Return an environment in which a fresh interpreter imports what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@contextmanager
def stopped(code: str, *arguments: str, says: str) -> Iterator[subprocess.Popen[str]]:
    """Run code in another process, stop it (SIGSTOP) once it has printed that line, and kill it at the end."""
    command = [sys.executable, "-c", code, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=importing(), text=True, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{says}\n"
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.communicate()


def in_a_child(action: Callable[[], None], *, user: int | None = None) -> int:
    """Run it in a forked process, as another user if given; return its exit code, 1 where it raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if user is not None and os.getuid() == 0:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            action()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
