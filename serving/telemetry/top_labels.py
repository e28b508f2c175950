"""Which names have a series of their own: as many as are allowed, the busiest of late; the rest are counted as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

OTHER = "(other)"
MOST_NAMES = 10_000  # that are counted between two settlements
FACTOR = 2  # times as busy as the least busy series a name must be to take its place


class TopLabels:
    """Decides when something is counted, so that every series, OTHER's too, only grows while it is there."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._shown: set[str] = set()
        self._lately: Counter[str] = Counter()

    def label(self, name: str) -> str:
        """Count the name, and return the label under which what happened is counted."""
        lately = self._lately
        if name in lately or len(lately) < MOST_NAMES:
            lately[name] += 1
        if name in self._shown:
            return name
        if len(self._shown) < self._most:
            self._shown.add(name)
            return name
        return OTHER

    def settle(self) -> Collection[str]:
        """Give the series of the least busy names to much busier ones; return those that lost theirs."""
        lately, dropped = self._lately, []
        waiting = [name for name, _ in lately.most_common(2 * self._most) if name not in self._shown]
        for name, quiet in zip(waiting, sorted(self._shown, key=lambda name: lately[name]), strict=False):
            if lately[name] <= FACTOR * lately[quiet]:
                break
            self._shown.remove(quiet)
            self._shown.add(name)
            dropped.append(quiet)
        self._lately = Counter()
        return dropped
