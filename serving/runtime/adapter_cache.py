"""Tasks resident in memory: loaded once however many ask, bounded in bytes, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from store.errors import OverloadedError
from store.weights.forms import TaskWeights

LOADERS = 4  # threads: loading one task is a digest and a copy, so more would only take cores from the engine
CEILING = 2  # times the budget: what tasks in use may take before none is loaded beside them


@dataclass(eq=False)
class _Entry:
    digest: str
    weights: Future[TaskWeights] = field(default_factory=Future)
    nbytes: int | None = None  # None until it is loaded
    leases: int = 0


class Pin:
    """One user's hold on a task: it stays in memory until `close`, which may be called again."""

    def __init__(self, pool: AdapterCache, entry: _Entry) -> None:
        self._pool = pool
        self._entry: _Entry | None = entry
        self.weights = entry.weights
        """The task once it is loaded, or what its load raised; shared with others, and not to be cancelled."""

    def close(self) -> None:
        self._pool._leave(self)


class AdapterCache:
    """Hand out task weights by version digest; every operation takes the same time however many are resident.

    `budget_nbytes` bounds what is kept. A task in use is never dropped, so tasks in use may take more, and go as soon
    as they are let go; where those alone reach `CEILING` times the budget, a task that is not in memory is refused.
    """

    def __init__(self, *, budget_nbytes: int) -> None:
        self._budget_nbytes = budget_nbytes
        self._entries: dict[str, _Entry] = {}
        # Loaded and in nobody's use, longest ago first. A plain dict would search for its first key after many left.
        self._idle: OrderedDict[str, _Entry] = OrderedDict()
        self._nbytes = 0
        self._idle_nbytes = 0
        self._lock = Lock()
        self._loaders = ThreadPoolExecutor(LOADERS, "load")
        self.loads = 0
        """How often a task was taken that was not in memory."""

    def take(self, digest: str, load: Callable[[], TaskWeights]) -> Pin:
        """Hold the task and return at once; where it is not in memory, a thread of the pool's own calls `load`.

        What `load` raises comes to all who wait for that load, and the next to take the task loads it anew; so does
        `OverloadedError` where the tasks in use leave no room.
        """
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                entry = _Entry(digest)
                entry.weights.set_running_or_notify_cancel()  # from here on, none of those who wait can cancel it
                self._loaders.submit(self._fill, entry, load)
                self._entries[digest] = entry
                self.loads += 1
            elif self._idle.pop(digest, None) is not None:
                self._idle_nbytes -= entry.nbytes or 0
            entry.leases += 1
        return Pin(self, entry)

    @property
    def nbytes(self) -> int:
        """Bytes of all loaded tasks."""
        return self._nbytes

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of loaded tasks: those that nobody uses, least recently used first, then those in use."""
        with self._lock:
            in_use = (e.digest for e in self._entries.values() if e.nbytes is not None and e.leases)
            return (*self._idle, *in_use)

    def _fill(self, entry: _Entry, load: Callable[[], TaskWeights]) -> None:
        try:
            self._check_room()
            weights = load()
            nbytes = weights.nbytes
        except BaseException as error:  # whoever waits must hear of it
            with self._lock:
                del self._entries[entry.digest]
            entry.weights.set_exception(error)
            return
        with self._lock:
            entry.nbytes = nbytes
            self._nbytes += nbytes
            self._settle(entry)
        entry.weights.set_result(weights)

    def _check_room(self) -> None:
        used_nbytes = self._nbytes - self._idle_nbytes
        if used_nbytes >= CEILING * self._budget_nbytes:
            raise OverloadedError(
                f"tasks in use take {used_nbytes:,} bytes of memory, {CEILING * self._budget_nbytes:,} are the most: "
                "try again later, or add replicas or memory"
            )

    def _leave(self, lease: Pin) -> None:
        with self._lock:
            entry, lease._entry = lease._entry, None
            if entry is None:
                return
            entry.leases -= 1
            if entry.nbytes is not None:
                self._settle(entry)

    def _settle(self, entry: _Entry) -> None:
        """Count a loaded task as idle if it is, and drop what was idle longest while the budget is passed."""
        if not entry.leases:
            self._idle[entry.digest] = entry
            self._idle_nbytes += entry.nbytes or 0
        while self._nbytes > self._budget_nbytes and self._idle:
            _, oldest = self._idle.popitem(last=False)
            self._nbytes -= oldest.nbytes or 0
            self._idle_nbytes -= oldest.nbytes or 0
            del self._entries[oldest.digest]
