"""How many cores this process may use: its affinity and its cgroup's quota, not what the host has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores(*, own: Path = OWN_CGROUPS, root: Path = CGROUPS) -> int:
    """Return the number of whole cores, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(int(quota) for quota in _quotas(own, root))]))


def _quotas(own: Path, root: Path) -> Iterator[float]:
    """Yield the quota, in cores, of each cgroup that this process is in, from its own up to the root's."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        # In a container, the path may be the host's, and only the root of it is mounted.
        for folder in [base / path.lstrip("/"), *(base / path.lstrip("/")).parents]:
            if (quota := _quota(folder)) is not None:
                yield quota
            if folder == base:
                break


def _quota(folder: Path) -> float | None:
    """Read version 2's `cpu.max` or version 1's pair of files; None where nothing limits it."""
    try:
        if (both := folder / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
