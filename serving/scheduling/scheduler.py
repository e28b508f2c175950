"""Decide, between any two calls of the engine, which rows run next; pure: tested without an engine or a clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import accumulate, islice, takewhile
from typing import Generic, TypeVar

from serving.scheduling.batches import CALL_S, Plan, blocks_of_call, density, plan_batch
from serving.scheduling.cost import EngineCost
from serving.scheduling.deadlines import Deadlines, late
from serving.scheduling.fair_shares import TenantShares
from serving.scheduling.requests import Batch, Decision, QueueEntry, ScheduledRequest
from serving.scheduling.waiting import WaitingRequests
from store.errors import InvalidSettingError, OverloadedError

T = TypeVar("T")
SCHEDULES = {"stretch": 1.0, "least-work": 10.0, "first-come": 0.0}
"""How many times what all that waits and runs takes a request may wait before it goes first."""
DEFAULT_SCHEDULE = "stretch"
GRACE_S = 8.0  # how much longer it may wait for deadlines in danger
LATELY = 0.05  # the weight of one call in what a row costs in a batch, over what it costs alone


class Scheduler(Generic[T]):
    """Most answers a second first; what has waited too long before that; a deadline in danger before both.

    **Shares.** A tenant that had more than a quantum beyond its share of the engine waits for the others, and so does,
    within a tenant, a task (`TenantShares`). The rest is among those within their shares.

    **The tail.** A request has waited too long after `SCHEDULES[schedule]` times what all requests that wait and run
    take; it then goes first, in the order of arrival, with all others that have, so that no later request passes it: no
    row starves. `first-come` is this alone. While deadlines are in danger, they go first for a grace more.

    **Batches.** The engine runs what answers most a second: a batch that has begun, or a new one, into which the
    waiting requests go, least work first, while that makes it answer more a second by what a block costs
    (`plan_batch`). A call runs as many blocks as take a few milliseconds (`blocks_of_call`).

    `max_rows` bounds the memory of all batches that have begun, `max_waiting` the rows that wait.
    """

    def __init__(self, *, schedule: str = DEFAULT_SCHEDULE, max_rows: int = 256, max_waiting: int = 1024) -> None:
        check_schedule(schedule)
        self.cost = EngineCost()
        self._patience = SCHEDULES[schedule]
        self._shares = TenantShares()
        self._max_rows = max_rows
        self._max_waiting = max_waiting
        self._entries: dict[ScheduledRequest[T], QueueEntry[T]] = {}
        self._deadlines: Deadlines[T] = Deadlines(self.cost)
        self._waiting: WaitingRequests[T] = WaitingRequests()
        self._running: list[Batch[T]] = []
        self._idle_since = 0.0
        self._admitted = 0
        self._most_blocks = 0
        self._row_blocks_left = 0
        self._together = 1.0  # seconds of a row in a batch over its seconds alone, lately

    def __len__(self) -> int:
        """Requests that wait or run."""
        return len(self._entries)

    @property
    def fullness(self) -> float:
        """The rows that wait, as a share of the most that may."""
        return self._waiting.rows / self._max_waiting

    def admit(self, request: ScheduledRequest[T], now: float) -> None:
        """Queue a request.

        Raises `OverloadedError` where too many rows wait, `DeadlineError` where its deadline is lost already, and
        `InvalidSettingError` where it alone has more rows than memory holds.
        """
        self._check_room(max(request.rows))
        row_blocks = tuple(accumulate(request.rows, initial=0))
        seconds = self.cost.of(len(request.rows), row_blocks[-1], 1)
        if self.cost.known and request.deadline is not None and now + seconds > request.deadline:
            raise late(now + seconds - request.deadline)
        seconds *= self._together
        if not self._entries:
            self._shares.pass_time(max(0.0, now - self._idle_since))
        start = self._shares.enter(request.tenant, request.tasks, seconds)
        self._admitted += 1
        entry = QueueEntry(request, self._admitted, now, start, seconds, row_blocks)
        self._entries[request] = entry
        self._deadlines.add(entry)
        self._waiting.add(entry)
        self._most_blocks = max(self._most_blocks, len(request.rows))
        self._row_blocks_left += row_blocks[-1]

    def abort(self, request: ScheduledRequest[T]) -> bool:
        """Forget a request that is done or has no client any more; return whether a batch that has begun contains it.

        An unknown request is allowed.
        """
        entry = self._entries.pop(request, None)
        if entry is None:
            return False
        _, row_blocks, _ = entry.left
        self._shares.leave(request.tenant, request.tasks, entry.expected(row_blocks))
        self._deadlines.remove(entry)
        self._row_blocks_left -= row_blocks
        if entry.batch is None:
            self._waiting.remove(entry)
            return False
        entry.batch.leave(request)
        if not entry.batch.live:
            self._running.remove(entry.batch)
        return True

    def next(self, now: float) -> Decision[T]:
        """Return what to do until the end of the next call; a batch of depth 0 is one that begins."""
        self._idle_since = now
        rows = max(
            [min(self._waiting.rows, self._max_rows), *(batch.rows_by_block[batch.depth] for batch in self._running)]
        )
        refused = self._deadlines.look(self._entries, max(CALL_S, self.cost.of(1, rows)), now)
        for request in refused:
            self.abort(request)
        batch = self._choose(now)
        if batch is None:
            return Decision(refused, None)
        blocks = blocks_of_call(batch, self.cost)
        row_blocks = sum(batch.rows_by_block[batch.depth : batch.depth + blocks])
        seconds = self.cost.of(blocks, row_blocks, batch.beginning) if self.cost.known else None
        return Decision(refused, batch, blocks, seconds)

    def blocks_finished(self, batch: Batch[T], blocks: int, seconds: float) -> None:
        """Learn that so many blocks of the batch took these seconds; requests that ended on the way are done."""
        self._idle_since += seconds
        end = batch.depth + blocks
        row_blocks = sum(batch.rows_by_block[batch.depth : end])
        alone_s = self.cost.of(row_blocks, row_blocks, batch.beginning)
        self._together += LATELY * (min(1.0, seconds / alone_s) - self._together)
        self.cost.learn(blocks, row_blocks, batch.beginning, seconds)
        self._shares.pass_time(seconds)
        used: defaultdict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0, 0.0])
        for request in batch.live:
            entry = self._entries[request]
            part = entry.row_blocks[min(end, len(request.rows))] - entry.row_blocks[batch.depth]
            sums = used[request.tenant, request.tasks]
            sums[0] += part
            sums[1] += entry.expected(part)
            self._row_blocks_left -= part
        for (tenant, tasks), (run, expected_s) in used.items():
            self._shares.serve(tenant, tasks, seconds * run / row_blocks, expected=expected_s)
        batch.depth = end
        for request in [request for request in batch.live if len(request.rows) <= end]:
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
        if self._waiting.rows + rows > self._max_waiting:
            raise OverloadedError(
                f"{self._waiting.rows} requests are waiting, at most {self._max_waiting} may: "
                "try again later or add replicas"
            )

    def _choose(self, now: float) -> Batch[T] | None:
        """Return the batch that goes on or begins, of those within their shares; of all where nobody is."""
        if len(self._running) == 1 and not self._waiting:
            return self._running[0]
        within = self._tenants_within_shares()
        clocks = {tenant: self._shares.clock(tenant) for tenant in self._waiting.tenants if tenant in within}
        running = [batch for batch in self._running if not within.isdisjoint(batch.tenants)]
        self._waiting.set_clocks(clocks, idle=not running)
        firsts = [*islice(self._waiting.oldest(clocks), 1), *map(self._oldest, running)]
        if not firsts:
            return None
        first = min(firsts, key=_number)
        limit_s, waited_s = self._patience * self._backlog_s(), now - first.arrived
        urgent = self._deadlines.in_danger
        if urgent is not None and urgent.tenant in within and waited_s <= limit_s + GRACE_S:
            entry = self._entries[urgent]
            chosen = entry.batch or self._begin(self._plan([entry], clocks, now))
        elif waited_s >= limit_s and (self.cost.known or not self._patience):
            overdue = takewhile(lambda entry: now - entry.arrived >= limit_s, self._waiting.oldest(clocks))
            chosen = first.batch or self._begin(self._plan(overdue, clocks, now))
        else:
            chosen = self._densest(running, self._plan((), clocks, now))
        return chosen or min(self._running, key=lambda batch: _number(self._oldest(batch)), default=None)

    def _tenants_within_shares(self) -> AbstractSet[str]:
        tenants = {*self._waiting.tenants, *(tenant for batch in self._running for tenant in batch.tenants)}
        return (
            tenants if len(tenants) == 1 else {tenant for tenant in tenants if self._shares.within(tenant)} or tenants
        )

    def _oldest(self, batch: Batch[T]) -> QueueEntry[T]:
        return min((self._entries[request] for request in batch.live), key=_number)

    def _backlog_s(self) -> float:
        """Seconds of all that waits and runs, if it were one batch."""
        return self.cost.of(self._most_blocks, self._row_blocks_left, len(self._waiting))

    def _plan(self, first: Iterable[QueueEntry[T]], clocks: Mapping[str, float], now: float) -> Plan[T]:
        """Plan a batch of those of the first ones that memory has room for, and of others that are worth joining."""
        room = self._max_rows - sum(batch.most_rows for batch in self._running)
        first = list(islice(first, self._max_rows))
        rows = accumulate(entry.most_rows for entry in first)
        fitting = [entry for entry, needed in zip(first, rows, strict=True) if needed <= room]
        if first and not fitting:
            return Plan((), 0.0)
        kinds = [self._waiting.like(kind, clocks) for kind in self._waiting.kinds(clocks)]
        return plan_batch(fitting, kinds, room=room, cost=self.cost, now=now)

    def _densest(self, running: Sequence[Batch[T]], plan: Plan[T]) -> Batch[T] | None:
        best = max(running, key=lambda batch: density(batch, self.cost), default=None)
        if best is not None and density(best, self.cost) >= plan.density:
            return best
        return self._begin(plan) or best

    def _begin(self, plan: Plan[T]) -> Batch[T] | None:
        if not plan.entries:
            return None
        batch = Batch([entry.request for entry in plan.entries])
        for entry in plan.entries:
            self._waiting.remove(entry)
            self._entries[entry.request] = replace(entry, batch=batch)
        self._running.append(batch)
        return batch


def check_schedule(schedule: str) -> None:
    """Raise `InvalidSettingError` unless there is a schedule of this name."""
    if schedule not in SCHEDULES:
        raise InvalidSettingError(f"there is no schedule {schedule!r}: choose one of {', '.join(SCHEDULES)}")


def _number(entry: QueueEntry[T]) -> int:
    return entry.number
