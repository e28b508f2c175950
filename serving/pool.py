"""Tasks resident in memory: loaded once however many ask, bounded in bytes, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from store.forms import TaskWeights


@dataclass
class _Entry:
    weights: Future[TaskWeights] = field(default_factory=Future)
    leases: int = 0


class Pool:
    """Hand out task weights by version digest; a task in use is never dropped, so the budget may be passed by those."""

    def __init__(self, *, budget_nbytes: int) -> None:
        self._budget_nbytes = budget_nbytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def lease(self, digest: str, load: Callable[[], TaskWeights]) -> Iterator[TaskWeights]:
        """Keep the task resident while the block runs; raise what `load` raises, and let the next lease try again."""
        entry, is_first = self._enter(digest)
        try:
            if is_first:
                self._fill(digest, entry, load)
            yield entry.weights.result()
        finally:
            self._leave(entry)

    @property
    def nbytes(self) -> int:
        """Bytes of all loaded tasks."""
        with self._lock:
            return sum(_nbytes(entry) for entry in self._entries.values())

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests held, least recently used first."""
        with self._lock:
            return tuple(self._entries)

    def _enter(self, digest: str) -> tuple[_Entry, bool]:
        with self._lock:
            is_first = digest not in self._entries
            entry = self._entries.setdefault(digest, _Entry())
            self._entries.move_to_end(digest)
            entry.leases += 1
            return entry, is_first

    def _fill(self, digest: str, entry: _Entry, load: Callable[[], TaskWeights]) -> None:
        try:
            entry.weights.set_result(load())
        except BaseException as error:
            # Those who wait for this load fail with it; the entry goes, so that the next request loads afresh.
            with self._lock:
                del self._entries[digest]
            entry.weights.set_exception(error)

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.leases -= 1
            excess = sum(_nbytes(e) for e in self._entries.values()) - self._budget_nbytes
            for digest, idle in list(self._entries.items()):
                if excess <= 0:
                    break
                if idle.leases == 0:
                    excess -= _nbytes(idle)
                    del self._entries[digest]


def _nbytes(entry: _Entry) -> int:
    return entry.weights.result().nbytes if entry.weights.done() and entry.weights.exception() is None else 0
