"""What is scheduled: jobs, and the batches in which they walk up together."""

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
    """What arrives together and shares its image: `rows[k]` rows run in block k + 1, and the job ends after the last.

    `tasks` are those that are charged for it, in equal parts; the deadline is a time on the caller's clock.
    """

    item: T
    tasks: tuple[str, ...]
    rows: tuple[int, ...]
    deadline: float | None = None


@dataclass(eq=False)
class Batch(Generic[T]):
    """Jobs that walk up together: the caller runs one block for all of them, then tells the scheduler."""

    jobs: list[ScheduledRequest[T]] = field(default_factory=list)
    depth: int = 0
    live: set[ScheduledRequest[T]] = field(default_factory=set)
    """Jobs whose answers are not ready and whose clients have not gone; where there are none, the rest is not run."""

    @property
    def rows(self) -> int:
        """Rows that the next block runs over, those that nobody waits for any more among them."""
        return sum(job.rows[self.depth] for job in self.jobs if len(job.rows) > self.depth)

    @property
    def most_rows(self) -> int:
        """Rows that any block still to come runs over, at most."""
        return sum(max(job.rows[self.depth :], default=0) for job in self.jobs)


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What to do now: refuse the jobs whose deadlines are lost, and run one block of this batch, if there is any."""

    refused: Mapping[ScheduledRequest[T], DeadlineError]
    batch: Batch[T] | None


@dataclass(frozen=True)
class QueueEntry(Generic[T]):
    """A job that was admitted: its place, its seconds as expected then, and its rows summed over the first k blocks.

    `start` is where its task's counter stood, `quantum` the count of whole quanta in it.
    """

    job: ScheduledRequest[T]
    number: int
    start: float
    quantum: int
    seconds: float
    row_blocks: tuple[int, ...]
    batch: Batch[T] | None = None

    @property
    def order(self) -> Order:
        """The least goes first: by quantum, then by what is left of it, then by what its task had, then by age."""
        return self.quantum, self.left[1], self.start, self.number

    @property
    def depth(self) -> int:
        return len(self.job.rows)

    @property
    def most_rows(self) -> int:
        return max(self.job.rows)

    @property
    def left(self) -> tuple[int, int]:
        """Blocks and row-blocks that are still to run."""
        run = 0 if self.batch is None else self.batch.depth
        return self.depth - run, self.row_blocks[-1] - self.row_blocks[run]

    def expected(self, row_blocks: int) -> float:
        """Seconds of so many of its row-blocks, as expected when it was admitted."""
        return self.seconds * row_blocks / self.row_blocks[-1]


def worth_joining(entry: QueueEntry[T], taken: Sequence[QueueEntry[T]], cost: BlockCost, wait_weight: float) -> bool:
    """Whether what a job's joining saves those that wait outweighs what it costs those that it joins.

    It saves them the fixed part of the blocks that are shared, and costs each of the others its rows' part of them.
    Both are weighed by 1 / a job's own work, since a short job feels a delay most (`wait_weight` is that, summed over
    those that wait), and the cost by the number that is there, for as many batches of that size are to come. For n like
    jobs this makes batches of about sqrt(n * fixed / per_row), for which their mean wait, (n / m + 1) / 2 times
    (fixed + per_row * m), is least.
    """
    fixed, per_row = (cost.fixed, cost.per_row) if cost.known else (1.0, 1.0)
    weights: defaultdict[int, float] = defaultdict(float)
    for each in taken:
        weights[min(each.depth, entry.depth)] += 1 / each.row_blocks[-1]
    costs = per_row * len(taken) * sum(entry.row_blocks[depth] * weight for depth, weight in weights.items())
    return costs <= fixed * min(entry.depth, max(each.depth for each in taken)) * wait_weight
