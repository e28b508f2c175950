"""What else the machine did while a benchmark ran: cores that other processes kept busy."""

from __future__ import annotations

import time
from pathlib import Path

STAT = Path("/proc/stat")
TICKS = 100  # a second, in /proc/stat
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


class ForeignLoad:
    """Meters one round after the other; where there is no /proc/stat, each is quiet."""

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float:
        """Return how many cores others used since the last call."""
        before, self._start = self._start, self._now()
        busy, own, wall = (now - then for now, then in zip(self._start, before, strict=True))
        return max(0.0, (busy - own) / wall)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        own, wall = time.process_time(), time.perf_counter()
        if not STAT.exists():
            return own, own, wall
        ticks = [int(word) for word in STAT.read_text().split("\n", 1)[0].split()[1:]]
        return sum(ticks[place] for place in BUSY) / TICKS, own, wall
