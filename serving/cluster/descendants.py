"""Every process that this one started, directly or not, and their end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36
END_S = 3.0


def adopt_orphans() -> None:
    """Become the parent of what a child leaves behind, so that `end_all` finds it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int) -> Sequence[int]:
    """Return the processes below this one; none where the system has no `/proc`."""
    children = defaultdict(list)
    for entry in PROC.glob("[0-9]*"):
        if (parent := parent_of(int(entry.name))) is not None:
            children[parent].append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children[waiting.pop()]
        found += below
        waiting += below
    return found


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None where it has ended."""
    try:
        # The name, in parentheses, may hold anything; the state and the parent follow it.
        state, parent = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(parent)


def command_of(pid: int) -> Sequence[str]:
    """Return the command line of a process; empty where it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_text("utf-8", "replace").split("\0")
    except OSError:
        return ()


def end_all() -> None:
    """Kill everything below this process, and what that started in the meantime, until nothing is left."""
    end = time.monotonic() + END_S
    while time.monotonic() < end:
        for pid in descendants(os.getpid()):
            _kill(pid)
        if not _reap():
            return
        time.sleep(0.02)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap() -> bool:
    """Take leave of the children that have ended, the adopted ones too; return whether others are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
