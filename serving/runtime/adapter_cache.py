"""Task weights in memory: loaded once for all requests, bounded in bytes, what was used once out first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Lock

import torch

from serving.engine.row_plan import EngineTask
from serving.runtime.idle_tasks import IdleTasks
from store.errors import OverloadedError

LOADERS = 4  # threads: loading one task is a digest and a copy, so more would only take cores from the engine
CEILING = 2  # times the budget: the most that pinned tasks may take before another task is refused


def _start_loaders() -> ThreadPoolExecutor:
    """Start all threads now: torch keeps the number of threads that was set last for those that start later."""
    threads, started = torch.get_num_threads(), Barrier(LOADERS + 1)
    loaders = ThreadPoolExecutor(LOADERS, "load", initializer=_use_one_core)
    for _ in range(LOADERS):
        loaders.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)
    return loaders


def _use_one_core() -> None:
    """Do not share out a load's tensor operations: they are small, and would take the engine's cores for longer."""
    torch.get_num_threads()  # torch sets a thread's number at its first query, which would undo the next line
    torch.set_num_threads(1)


@dataclass(eq=False)
class _Entry:
    digest: str
    weights: Future[EngineTask] = field(default_factory=Future)
    nbytes: int | None = None  # None until it is loaded
    pins: int = 0
    again: bool = False  # acquired once more while it was there


class Pin:
    """One user's claim on a task, which keeps it in memory until `close`; `close` may be called again."""

    def __init__(self, cache: AdapterCache, entry: _Entry) -> None:
        self._cache = cache
        self._entry: _Entry | None = entry
        self.weights = entry.weights
        """The task once it is loaded, or the error of its load; shared with others, and not to be cancelled."""

    def close(self) -> None:
        self._cache._release(self)


class AdapterCache:
    """Hand out task weights by version digest; every operation takes the same time however many are resident.

    `budget_nbytes` bounds what is kept; `IdleTasks` says what leaves first. A pinned task is never evicted, so pinned
    tasks may take more, and are evicted as soon as they are released; where they alone reach `CEILING` times the
    budget, a task that is not in memory is refused.
    """

    def __init__(self, *, budget_nbytes: int) -> None:
        self._budget_nbytes = budget_nbytes
        self._entries: dict[str, _Entry] = {}
        self._idle: IdleTasks[_Entry] = IdleTasks(budget_nbytes)  # loaded and not pinned
        self._nbytes = 0
        self._lock = Lock()
        self._loaders = _start_loaders()
        self.hits = 0
        """How often a task was acquired that was in memory, or on its way there."""
        self.loads = 0
        """How often a task was acquired that was not in memory."""
        self.evictions = 0

    def acquire(self, digest: str, load: Callable[[], EngineTask]) -> Pin:
        """Pin the task and return at once; where it is not in memory, a thread of the cache calls `load`.

        An error of `load` is set for all who wait for that load, and the next call loads the task again; so is
        `OverloadedError` where the pinned tasks leave no room.
        """
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                entry = _Entry(digest)
                entry.weights.set_running_or_notify_cancel()  # from here on, none of those who wait can cancel it
                self._loaders.submit(self._load, entry, load)
                self._entries[digest] = entry
                self.loads += 1
            else:
                self.hits += 1
                entry.again = True
                self._idle.remove(digest)
            entry.pins += 1
        return Pin(self, entry)

    @property
    def nbytes(self) -> int:
        """Bytes of all loaded tasks."""
        return self._nbytes

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of loaded tasks: those that are not pinned in the order in which they leave, then the pinned ones."""
        with self._lock:
            pinned = (e.digest for e in self._entries.values() if e.nbytes is not None and e.pins)
            return (*self._idle, *pinned)

    def _load(self, entry: _Entry, load: Callable[[], EngineTask]) -> None:
        try:
            self._check_room()
            weights = load()
            nbytes = weights.nbytes
        except BaseException as error:  # all who wait must get it
            with self._lock:
                del self._entries[entry.digest]
            entry.weights.set_exception(error)
            return
        with self._lock:
            entry.nbytes = nbytes
            self._nbytes += nbytes
            self._make_idle_unless_pinned(entry)
            self._evict_if_needed()
        entry.weights.set_result(weights)

    def _check_room(self) -> None:
        pinned_nbytes = self._nbytes - self._idle.nbytes
        if pinned_nbytes >= CEILING * self._budget_nbytes:
            raise OverloadedError(
                f"tasks in use take {pinned_nbytes:,} bytes of memory, {CEILING * self._budget_nbytes:,} are the most: "
                "try again later, or add replicas or memory"
            )

    def _release(self, pin: Pin) -> None:
        with self._lock:
            entry, pin._entry = pin._entry, None
            if entry is None:
                return
            entry.pins -= 1
            if entry.nbytes is not None:
                self._make_idle_unless_pinned(entry)
                self._evict_if_needed()

    def _make_idle_unless_pinned(self, entry: _Entry) -> None:
        if not entry.pins:
            self._idle.add(entry.digest, entry, entry.nbytes or 0, again=entry.again)

    def _evict_if_needed(self) -> None:
        """Evict idle tasks while the budget is exceeded."""
        while self._nbytes > self._budget_nbytes and self._idle:
            oldest = self._idle.pop()
            self._nbytes -= oldest.nbytes or 0
            del self._entries[oldest.digest]
            self.evictions += 1
