"""What is scheduled: requests, and the batches in which they run together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serving.scheduling.cost import BlockCost
from store.errors import DeadlineError

T = TypeVar("T")
Order = tuple[int, int, float, int]


@dataclass(frozen=True, eq=False)
class ScheduledRequest(Generic[T]):
    """Rows that arrive together and share an image: `rows[k]` rows run in block k + 1; it ends after the last block.

    `tasks` are those that are charged for it, in equal parts; the deadline is a time on the caller's clock.
    """

    item: T
    tasks: tuple[str, ...]
    rows: tuple[int, ...]
    deadline: float | None = None


@dataclass(eq=False)
class Batch(Generic[T]):
    """Requests that run together: the caller runs one block for all of them, then tells the scheduler."""

    requests: list[ScheduledRequest[T]] = field(default_factory=list)
    depth: int = 0
    live: set[ScheduledRequest[T]] = field(default_factory=set)
    """Requests whose answers are not ready and whose clients still wait; without any, the batch does not go on."""

    @property
    def rows(self) -> int:
        """Rows in the next block, including those that no client waits for any more."""
        return sum(request.rows[self.depth] for request in self.requests if len(request.rows) > self.depth)

    @property
    def most_rows(self) -> int:
        """The most rows in any block that is still to run."""
        return sum(max(request.rows[self.depth :], default=0) for request in self.requests)


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What to do now: refuse the requests whose deadlines are lost, and run one block of the batch, if there is one."""

    refused: Mapping[ScheduledRequest[T], DeadlineError]
    batch: Batch[T] | None


@dataclass(frozen=True)
class QueueEntry(Generic[T]):
    """An admitted request: its place, its expected seconds at admission, and its rows summed over the first k blocks.

    `start` is where its task's counter was, `quantum` the count of whole quanta in it.
    """

    request: ScheduledRequest[T]
    number: int
    start: float
    quantum: int
    seconds: float
    row_blocks: tuple[int, ...]
    batch: Batch[T] | None = None

    @property
    def order(self) -> Order:
        """The least goes first: by quantum, then by the work left, then by what its task had, then by age."""
        return self.quantum, self.left[1], self.start, self.number

    @property
    def depth(self) -> int:
        return len(self.request.rows)

    @property
    def most_rows(self) -> int:
        return max(self.request.rows)

    @property
    def left(self) -> tuple[int, int]:
        """Blocks and row-blocks that are still to run."""
        run = 0 if self.batch is None else self.batch.depth
        return self.depth - run, self.row_blocks[-1] - self.row_blocks[run]

    def expected(self, row_blocks: int) -> float:
        """Seconds of so many of its row-blocks, as expected at admission."""
        return self.seconds * row_blocks / self.row_blocks[-1]


def worth_joining(entry: QueueEntry[T], taken: Sequence[QueueEntry[T]], cost: BlockCost, wait_weight: float) -> bool:
    """Whether a request that joins a batch saves the waiting requests more than it costs the requests in the batch.

    It saves them the fixed part of the blocks that are shared, and costs each of the others its rows' part of them.
    Both are weighed by 1 / a request's own work, since a short request feels a delay most (`wait_weight` is that sum
    over the waiting requests), and the cost by the size of the batch, for as many batches of that size are to come.
    For n like requests this makes batches of about sqrt(n * fixed / per_row), for which their mean wait,
    (n / m + 1) / 2 times (fixed + per_row * m), is least.
    """
    fixed, per_row = (cost.fixed, cost.per_row) if cost.known else (1.0, 1.0)
    weights: defaultdict[int, float] = defaultdict(float)
    for member in taken:
        weights[min(member.depth, entry.depth)] += 1 / member.row_blocks[-1]
    costs = per_row * len(taken) * sum(entry.row_blocks[depth] * weight for depth, weight in weights.items())
    return costs <= fixed * min(entry.depth, max(member.depth for member in taken)) * wait_weight
