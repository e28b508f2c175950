"""Which requests make a batch that answers most a second, how many these are, and how long a call for it may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from serving.scheduling.cost import EngineCost
from serving.scheduling.deadlines import CAUTION
from serving.scheduling.requests import Batch, QueueEntry

T = TypeVar("T")
CALL_S = 5e-3  # how long a call may last beyond its first block: so long may a newcomer wait before it is considered
SPARED = 0.1  # of a batch's answers a second may be given up for requests that then need no batch of their own
SAVING = 0.5  # the fixed part's share of a row's block below which requests with deadlines run one by one
WORTH = 1.02  # times the answers a second of one request alone that several of its kind must give to run together
OVERHEAD_S = 0.2e-3  # what a call costs beside its blocks


@dataclass(frozen=True)
class Plan(Generic[T]):
    """A batch that could begin, and its answers a second."""

    entries: tuple[QueueEntry[T], ...]
    density: float


@dataclass
class _Growing:
    """What a batch in the making consists of."""

    images: int = 0
    answers: int = 0
    blocks: int = 0
    row_blocks: int = 0
    due: float = math.inf
    """The earliest deadline."""

    def plus(self, entries: Sequence[QueueEntry[T]]) -> _Growing:
        deadlines = [entry.request.deadline for entry in entries if entry.request.deadline is not None]
        return _Growing(
            self.images + len(entries),
            self.answers + sum(entry.request.answers for entry in entries),
            max([self.blocks, *(len(entry.request.rows) for entry in entries)]),
            self.row_blocks + sum(entry.row_blocks[-1] for entry in entries),
            min([self.due, *deadlines]),
        )

    def seconds(self, cost: EngineCost) -> float:
        return cost.of(self.blocks, self.row_blocks, self.images)

    def density(self, cost: EngineCost) -> float:
        return self.answers / self.seconds(cost)

    def in_time(self, cost: EngineCost, now: float) -> bool:
        """Whether all deadlines are met by a batch that saves more than its requests wait for each other."""
        if self.due == math.inf:
            return True
        return cost.fixed_share >= SAVING and now + CAUTION * self.seconds(cost) <= self.due


def plan_batch(
    first: Sequence[QueueEntry[T]],
    kinds: Iterable[Iterator[QueueEntry[T]]],
    *,
    room: int,
    cost: EngineCost,
    now: float,
) -> Plan[T]:
    """Plan a batch of these requests and of as many others, the least work first, as make it answer most a second.

    The others come by kind. They do not join where a deadline in the batch would then be in danger, nor beyond the rows
    that memory has room for.
    """
    taken, growing = _first_in_time(first, cost=cost, now=now)
    room -= sum(entry.most_rows for entry in taken)
    best, chosen = (growing.density(cost), len(taken)) if taken else (0.0, 0)
    before = set(taken)
    for kind in kinds:
        fresh = (entry for entry in kind if entry not in before)
        joining = _as_many_as_fit(fresh, growing, room=room, cost=cost, now=now)
        if not joining:
            continue
        taken += joining
        room -= sum(entry.most_rows for entry in joining)
        growing = growing.plus(joining)
        if growing.density(cost) > best * (1 - cost.fixed_share**2 * SPARED):
            chosen = len(taken)
        best = max(best, growing.density(cost))
    return Plan(tuple(taken[:chosen]), best)


def _first_in_time(
    entries: Sequence[QueueEntry[T]], *, cost: EngineCost, now: float
) -> tuple[list[QueueEntry[T]], _Growing]:
    """Return the first request, and those after it with which the batch is in time."""
    growing = _Growing()
    for index, entry in enumerate(entries):
        longer = growing.plus([entry])
        if index and not longer.in_time(cost, now):
            return list(entries[:index]), growing
        growing = longer
    return list(entries), growing


def _as_many_as_fit(
    entries: Iterator[QueueEntry[T]], growing: _Growing, *, room: int, cost: EngineCost, now: float
) -> list[QueueEntry[T]]:
    first = next(entries, None)
    if first is None or first.most_rows > room:
        return []
    like = [first, *islice(entries, room // first.most_rows - 1)]
    with_first = growing.plus([first])
    if not growing.images and growing.plus(like).density(cost) < WORTH * with_first.density(cost):
        return like[:1]
    while len(like) > (not growing.images) and not growing.plus(like).in_time(cost, now):
        like.pop()
    return like


def density(batch: Batch[T], cost: EngineCost) -> float:
    """Return the most answers a second that the batch gives until one of its requests ends."""
    ends = batch.answers
    best, answers, row_blocks = 0.0, 0, 0
    for depth in range(batch.depth + 1, max(ends) + 1):
        row_blocks += batch.rows_by_block[depth - 1]
        if depth in ends:
            answers += ends[depth]
            best = max(best, answers / cost.of(depth - batch.depth, row_blocks, batch.beginning))
    return best


def blocks_of_call(batch: Batch[T], cost: EngineCost) -> int:
    """Return how many blocks the next call runs: as many as take `CALL_S`, at least one.

    It ends earlier, where requests end, if their wait for the call's end would weigh more than what one more call costs
    the others.
    """
    if not cost.known:
        return 1
    ends = batch.ends
    start, last = batch.depth, max(ends)
    seconds = [0.0]  # of the call's blocks, summed
    for rows in batch.rows_by_block[start:last]:
        block_s = cost.of(1, rows)
        if len(seconds) > 1 and seconds[-1] + block_s > CALL_S:
            break
        seconds.append(seconds[-1] + block_s)
    left = len(batch.live)
    for blocks in range(1, len(seconds) - 1):
        ended = ends[start + blocks]
        left -= ended
        if ended * (seconds[-1] - seconds[blocks]) > left * OVERHEAD_S:
            return blocks
    return len(seconds) - 1
