"""Tasks that nobody uses now, in the order in which they leave: those used once first, then those used again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
AGAIN_SHARE = 0.8  # of the budget: what tasks that were used again may take, before the oldest of them counts as new
AGE = 16  # how often all tasks may be exchanged until one that was not used meanwhile counts as new


class _Idle(NamedTuple, Generic[T]):
    task: T
    nbytes: int
    turn: int


class IdleTasks(Generic[T]):
    """Two lists, each the least recently used first (segmented LRU, Karedla et al. 1994); all operations take O(1).

    A task that was asked for once is one of many: most of them are never asked for again, and leave without driving
    out those that are. Where requests follow Zipf's law, a fifth fewer have to load their task than with one list.
    """

    def __init__(self, budget_nbytes: int) -> None:
        self._most_nbytes = AGAIN_SHARE * budget_nbytes
        # A plain dict would search for its first key after many were removed.
        self._once: OrderedDict[str, _Idle[T]] = OrderedDict()
        self._again: OrderedDict[str, _Idle[T]] = OrderedDict()
        self._again_nbytes = 0
        self._turn = 0  # tasks that were added as new
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def __iter__(self) -> Iterator[str]:
        """Give the names in the order in which they would leave."""
        yield from self._once
        yield from self._again

    def add(self, name: str, task: T, nbytes: int, *, again: bool) -> None:
        """Add a task as the most recently used one; `again`: it was used before while it was in memory."""
        self.nbytes += nbytes
        self._turn += not again
        if again:
            self._again[name] = _Idle(task, nbytes, self._turn)
            self._again_nbytes += nbytes
        else:
            self._once[name] = _Idle(task, nbytes, self._turn)
        while self._again and self._counts_as_new(self._again[next(iter(self._again))]):
            oldest, idle = self._again.popitem(last=False)
            self._again_nbytes -= idle.nbytes
            self._once[oldest] = idle

    def remove(self, name: str) -> None:
        """Take a task out, if it is here."""
        if (found := self._once.pop(name, None)) is None:
            if (found := self._again.pop(name, None)) is None:
                return
            self._again_nbytes -= found.nbytes
        self.nbytes -= found.nbytes

    def pop(self) -> T:
        """Take out the task that is the next to leave."""
        name = next(iter(self))
        found = self._once.get(name) or self._again[name]
        self.remove(name)
        return found.task

    def _counts_as_new(self, oldest: _Idle[T]) -> bool:
        return self._again_nbytes > self._most_nbytes or self._turn - oldest.turn > AGE * len(self)
