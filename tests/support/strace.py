"""Run an action in a forked process under strace: to see its calls, or to break one of them."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from store.errors import OnetrunkError

LIMIT_S = 100  # longer than the store waits for a lock: a process that takes it hangs
NOTE_NBYTES = 8192
ACKNOWLEDGED = b"!"
ACKNOWLEDGEMENT = "lseek(-1, 0, SEEK_SET)"
RETURNED, REFUSED, CRASHED = 0, 3, 4

MUTATING = (
    *("open", "openat", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range"),
    *("fsync", "fdatasync", "sync_file_range", "truncate", "ftruncate", "fallocate"),
    *("link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat", "utimensat", "utimes", "setxattr", "fsetxattr"),
)


Action = Callable[[Callable[[], object]], object]
"""What is run; it calls its argument when its caller may rely on what it did."""


@dataclass(frozen=True)
class TracedExit:
    """How the action ended: "returned", "refused" with a typed error, "killed", or "crashed" in any other way.

    `acknowledged` says whether it had called its argument before.
    """

    how: str
    note: str
    acknowledged: bool


def why_not() -> str | None:
    """Say why no process can be traced here; None where one can."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return "strace is not installed"
    try:
        end = run_traced(lambda _: None, "-o", os.devnull, "-e", "trace=?fsync")
    except PermissionError as error:
        return str(error)
    return None if end.how == "returned" else f"strace does not work: {end}"


def calls(names: Sequence[str]) -> str:
    """Return strace's name for these system calls, those that this machine does not know left out."""
    return ",".join(f"?{name}" for name in names)


def run_traced(action: Action, *options: str) -> TracedExit:
    """Fork, run the action under strace with these options, and say how it ended.

    A fork because everything is imported by then: a new interpreter costs twenty times as much.
    """
    note = mmap.mmap(-1, NOTE_NBYTES)  # shared memory, as the calls that would report an error may be the broken ones
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        _play(action, ready, note)
    os.close(ready)
    with subprocess.Popen(["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True) as tracer:
        line = tracer.stderr.readline() if tracer.stderr else ""
        attached = line.rstrip().endswith("attached")
        if not attached:
            os.kill(pid, signal.SIGKILL)
        os.close(go)  # the child waits for this, so that strace sees all it does
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not attached:
            raise PermissionError(f"strace may not trace: {line.strip()}")
        tracer.communicate()
    return _exit_of(status, note[1:].rstrip(b"\0").decode(), acknowledged=note[:1] == ACKNOWLEDGED)


def _play(action: Action, ready: int, note: mmap.mmap) -> NoReturn:
    code = CRASHED
    try:
        os.read(ready, 1)
        signal.alarm(LIMIT_S)
        action(lambda: _acknowledge(note))
        code = RETURNED
    except BaseException as error:
        typed = isinstance(error, OnetrunkError) or (isinstance(error, OSError) and error.errno is not None)
        code = REFUSED if typed else CRASHED
        text = f"{type(error).__name__}: {error} ({_where(error)})".encode()[: NOTE_NBYTES - 1]
        note[1 : len(text) + 1] = text
    finally:
        os._exit(code)


def _where(error: BaseException) -> str:
    trace, lines = error.__traceback__, []
    while trace is not None:
        lines.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " ".join(lines[-4:])


def _acknowledge(note: mmap.mmap) -> None:
    note[:1] = ACKNOWLEDGED
    with contextlib.suppress(OSError):
        os.lseek(-1, 0, os.SEEK_SET)  # fails, and marks the place in the trace


def _exit_of(status: int, note: str, *, acknowledged: bool) -> TracedExit:
    names = {RETURNED: "returned", REFUSED: "refused", CRASHED: "crashed", -signal.SIGKILL: "killed"}
    return TracedExit(names.get(status, "crashed"), note or f"exit status {status}", acknowledged)
