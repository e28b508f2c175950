"""How long the engine's thread has been in one call, beside how long it should be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 10  # times its expected seconds a call may last before it counts as stuck
LEAST_S = 5.0  # a machine may stand still so long
UNKNOWN_S = 60.0  # the first calls of a process lay out weights and compile kernels


class CallWatch:
    """Written by the engine's thread, read by any other."""

    def __init__(self) -> None:
        self._running: tuple[float, float] | None = None

    @contextmanager
    def call(self, expected_s: float | None) -> Iterator[None]:
        """Watch a call of the engine; None where it is not known what it takes."""
        bound_s = UNKNOWN_S if expected_s is None else max(LEAST_S, PATIENCE * expected_s)
        self._running = time.monotonic(), bound_s
        try:
            yield
        finally:
            self._running = None

    @property
    def stuck_s(self) -> float:
        """Seconds of the call that runs now, where they are more than it may take; else 0."""
        running = self._running
        if running is None:
            return 0.0
        start, bound_s = running
        lasted_s = time.monotonic() - start
        return lasted_s if lasted_s > bound_s else 0.0
