"""Python's collector of cycles in a process that serves: while it looks through memory, every thread waits."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

LONG_S = 0.02  # of one collection: a fourth of what it looked through may come before the next


class LongCollections:
    """After a long full collection, look through what was found alive no more (`gc.freeze`).

    What a server knows of ten thousand versions is some hundred thousand objects that stay, and a full collection
    looks through all of them, for 0.1 to 0.4 s. What is frozen and becomes garbage later is still freed by its counts;
    only a cycle among it stays, and a long collection is rare.
    """

    def __init__(self, long_s: float = LONG_S) -> None:
        self._long_s, self._began = long_s, 0.0
        gc.callbacks.append(self._watch)

    def close(self) -> None:
        gc.callbacks.remove(self._watch)

    def _watch(self, phase: str, info: Mapping[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.perf_counter()
        elif time.perf_counter() - self._began >= self._long_s:
            gc.freeze()
