"""Whose CPU time it was: that of the benchmark and the processes that it started, or of others on this machine."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.server_process import descendants, stat_fields

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class CpuUse:
    """Cores that were busy on average within a block, ours and those of other programs."""

    own: float = 0.0
    foreign: float = 0.0


@contextlib.contextmanager
def cpu_use() -> Iterator[CpuUse]:
    """Measure until the end of the block; processes of ours that end within it are counted by who waited for them."""
    use, start, busy, own = CpuUse(), time.monotonic(), busy_s(), own_s()
    yield use
    seconds = time.monotonic() - start
    use.own = (own_s() - own) / seconds
    use.foreign = max(0.0, (busy_s() - busy) / seconds - use.own)


def busy_s() -> float:
    """Return the seconds that all cores of this machine have been busy since its start."""
    user, nice, system, _idle, _wait, interrupt, soft, _steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupt + soft) / TICKS


def own_s() -> float:
    """Return the CPU seconds of this process and all its descendants, those that ended included."""
    return sum(cpu_s(pid) for pid in [os.getpid(), *descendants(os.getpid())])


def cpu_s(pid: int) -> float:
    try:
        fields = stat_fields(Path(f"/proc/{pid}/stat"))
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS
