"""Token buckets: how many of something each key may have a second."""

from __future__ import annotations

import time

MOST_KEYS = 10_000  # buckets that are remembered; one that is forgotten was full, or nearly


class RateLimit:
    """A bucket for each key, filled at `rate` a second up to `burst`; what is taken beyond is owed."""

    def __init__(self, rate: float, *, burst: float) -> None:
        self._rate, self._burst = rate, max(1.0, burst)
        self._filled: dict[str, float] = {}  # key -> when its bucket will be full; those of the past are full

    def wait_s(self, key: str) -> float:
        """Return how long the key has to wait for its next one; 0 where it may have one now."""
        left_s = self._filled.get(key, 0.0) - time.monotonic()
        return max(0.0, left_s - (self._burst - 1.0) / self._rate)

    def take(self, key: str, count: float = 1.0) -> None:
        now = time.monotonic()
        self._filled[key] = max(now, self._filled.pop(key, 0.0)) + count / self._rate
        if len(self._filled) > MOST_KEYS:
            self._filled = dict(sorted(self._filled.items(), key=lambda item: item[1])[MOST_KEYS // 2 :])
