"""Decide, between any two blocks, which rows run next; pure, so that it is tested without an engine or a clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Generic, TypeVar

from serving.scheduling.cost import BlockCost
from serving.scheduling.deadlines import Deadlines, in_time, late
from serving.scheduling.fair_shares import FairShares
from serving.scheduling.requests import Batch, Decision, Order, QueueEntry, ScheduledRequest, worth_joining
from store.errors import InvalidSettingError, OverloadedError

T = TypeVar("T")
QUANTUM_S = 4.0  # how much more than others, in seconds of the engine, a task may have had before that counts
GRACE_S = 8.0  # how far virtual time may be past a request before not even a deadline goes ahead of it
NOMINAL_S = 1e-3  # a row's block, until the cost of one is known


class Scheduler(Generic[T]):
    """Least work first among tasks of like shares (`FairShares`); a deadline in danger goes before them.

    Shares are alike while their counters are within one quantum. A request is passed by those of its quantum that
    have less work, by those of earlier quanta, and by deadlines until it has waited for a grace beyond. Virtual time
    goes by at least 1/n while n tasks have work, so after n * (quantum + grace + its place in its task's queue, in
    seconds of service) no later request passes it; the earlier requests are bounded: no row starves.

    How many rows run together follows from what a block costs and how many wait (`worth_joining`); requests with
    deadlines also run together where all of them are then in time (`in_time`), which leaves more time to those that
    wait. `max_rows` bounds the memory of all batches that have begun, `max_waiting` the rows that wait.
    """

    def __init__(self, *, max_rows: int = 256, max_waiting: int = 1024) -> None:
        self.cost = BlockCost()
        self._shares = FairShares()
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._entries: dict[ScheduledRequest[T], QueueEntry[T]] = {}
        self._deadlines: Deadlines[T] = Deadlines(self.cost)
        # A heap; requests that are gone or have begun are passed over.
        self._waiting: list[tuple[Order, ScheduledRequest[T]]] = []
        self._waiting_rows = 0
        self._wait_weight = 0.0  # 1 / row-blocks, summed over the waiting requests
        self._running: list[Batch[T]] = []
        self._admitted = 0

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._entries)

    def admit(self, request: ScheduledRequest[T], now: float) -> None:
        """Queue a request.

        Raises `OverloadedError` where too many rows wait, `DeadlineError` where its deadline is lost already, and
        `InvalidSettingError` where it alone has more rows than memory holds.
        """
        self._check_room(max(request.rows))
        row_blocks = tuple(accumulate(request.rows, initial=0))
        seconds = self.cost.of(len(request.rows), row_blocks[-1])
        if request.deadline is not None and now + seconds > request.deadline:
            raise late(now + seconds - request.deadline)
        seconds = seconds or NOMINAL_S * row_blocks[-1]
        start = self._shares.enter(request.tasks, seconds)
        self._admitted += 1
        entry = QueueEntry(request, self._admitted, start, int(start / QUANTUM_S), seconds, row_blocks)
        self._entries[request] = entry
        self._deadlines.add(entry)
        heapq.heappush(self._waiting, (entry.order, request))
        self._waiting_rows += entry.most_rows
        self._wait_weight += 1 / row_blocks[-1]

    def abort(self, request: ScheduledRequest[T]) -> bool:
        """Forget a request that is done or has no client any more; return whether a batch that has begun contains it.

        An unknown request is allowed.
        """
        entry = self._entries.pop(request, None)
        if entry is None:
            return False
        self._shares.leave(request.tasks, entry.expected(entry.left[1]))
        self._deadlines.remove(entry)
        if entry.batch is None:
            self._stop_waiting(entry)
            return False
        entry.batch.live.discard(request)
        if not entry.batch.live:
            self._running.remove(entry.batch)
        return True

    def next(self, now: float) -> Decision[T]:
        """Return what to do until the end of the next block; a batch of depth 0 is one that begins."""
        rows = max((batch.rows for batch in self._running), default=1)
        refused = self._deadlines.look(self._entries, rows, now)
        for request in refused:
            self.abort(request)
        return Decision(refused, self._choose(now))

    def block_finished(self, batch: Batch[T], seconds: float) -> None:
        """Learn that one block of the batch took these seconds; requests whose last block it was are done."""
        rows = batch.rows
        if batch.depth:  # the first block comes with the stem
            self.cost.learn(rows, seconds)
        self._shares.pass_time(seconds)
        for request in batch.live:
            part = request.rows[batch.depth]
            expected = self._entries[request].expected(part)
            self._shares.serve(request.tasks, seconds * part / rows, expected=expected)
        batch.depth += 1
        for request in [request for request in batch.live if len(request.rows) == batch.depth]:
            self.abort(request)

    def fail(self, batch: Batch[T]) -> None:
        """Forget a batch that failed."""
        for request in list(batch.live):
            self.abort(request)

    def _check_room(self, rows: int) -> None:
        if rows > self._max_rows:
            raise InvalidSettingError(
                f"{rows} tasks for one image make {rows} rows, memory holds {self._max_rows}: name fewer at a time"
            )
        if self._waiting_rows + rows > self._max_waiting:
            raise OverloadedError(
                f"{self._waiting_rows} requests are waiting, at most {self._max_waiting} may: "
                "try again later or add replicas"
            )

    def _choose(self, now: float) -> Batch[T] | None:
        """Return the batch of the first in order, be it waiting or running, or of the deadline in danger."""
        firsts = [min((self._entries[request] for request in batch.live), key=_order) for batch in self._running]
        running = min(firsts, key=_order, default=None)
        waiting = self._first_waiting()
        first = min((entry for entry in (running, waiting) if entry), key=_order, default=None)
        if first is None:
            return None
        urgent = self._deadlines.in_danger
        if urgent is not None and self._shares.now <= first.start + first.seconds + GRACE_S:
            first = self._entries[urgent]
        return first.batch or self._start_batch(first, now) or (running.batch if running else None)

    def _start_batch(self, first: QueueEntry[T], now: float) -> Batch[T] | None:
        """Begin a batch with this request and those worth joining to it; None where memory has no room for it."""
        room = self._max_rows - sum(batch.most_rows for batch in self._running)
        batch: Batch[T] = Batch()
        taken: list[QueueEntry[T]] = []
        entry: QueueEntry[T] | None = first
        while entry and entry.most_rows <= room and (not taken or self._worth_joining(entry, taken, now)):
            self._stop_waiting(entry)
            taken.append(entry)
            room -= entry.most_rows
            batch.requests.append(entry.request)
            batch.live.add(entry.request)
            self._entries[entry.request] = replace(entry, batch=batch)
            entry = self._first_waiting()
        if not taken:
            return None
        self._running.append(batch)
        return batch

    def _worth_joining(self, entry: QueueEntry[T], taken: Sequence[QueueEntry[T]], now: float) -> bool:
        return worth_joining(entry, taken, self.cost, self._wait_weight) or in_time([*taken, entry], self.cost, now)

    def _stop_waiting(self, entry: QueueEntry[T]) -> None:
        self._waiting_rows -= entry.most_rows
        self._wait_weight -= 1 / entry.row_blocks[-1]

    def _first_waiting(self) -> QueueEntry[T] | None:
        while self._waiting:
            entry = self._entries.get(self._waiting[0][1])
            if entry is not None and entry.batch is None:
                return entry
            heapq.heappop(self._waiting)
        self._wait_weight = 0.0  # what rounding left
        return None


def _order(entry: QueueEntry[T]) -> Order:
    return entry.order
