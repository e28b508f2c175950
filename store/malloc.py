"""Keep freed memory in the process, where glibc would hand large blocks back after each use."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks; False where there is no glibc (see mallopt(3)).

    A tensor above 32 MiB otherwise costs fresh page faults each time it is allocated: up to five
    times the run time of a training step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, INT_MAX))
