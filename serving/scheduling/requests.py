"""What is scheduled: requests, and the batches in which they run together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, TypeVar

from store.errors import DeadlineError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ScheduledRequest(Generic[T]):
    """Rows that arrive together and share an image: `rows[k]` rows run in block k + 1; it ends after the last block.

    `tasks` are those that are charged for it, in equal parts, and `tenant` whose request it is; the deadline is a time
    on the caller's clock.
    """

    item: T
    tasks: tuple[str, ...]
    rows: tuple[int, ...]
    deadline: float | None = None
    tenant: str = ""

    @property
    def answers(self) -> int:
        return len(self.tasks)


class Batch(Generic[T]):
    """Requests that run together: the caller runs blocks for all of them, then tells the scheduler."""

    def __init__(self, requests: Sequence[ScheduledRequest[T]]) -> None:
        self.requests = tuple(requests)
        self.tenants = frozenset(request.tenant for request in requests)
        self.depth = 0
        self.live = set(requests)
        """Requests whose answers are not ready and whose clients still wait; without any, the batch does not go on."""
        self.ends = Counter(len(request.rows) for request in requests)
        """How many of them end at each depth."""
        self.answers = Counter[int]()
        """How many answers are then ready."""
        for request in requests:
            self.answers[len(request.rows)] += request.answers
        columns = zip_longest(*(request.rows for request in requests), fillvalue=0)
        self.rows_by_block = tuple(map(sum, columns))
        """Rows in each block, including those that no client waits for any more."""

    def leave(self, request: ScheduledRequest[T]) -> None:
        """Count out a request that is done or has no client any more."""
        self.live.discard(request)
        end = len(request.rows)
        self.ends[end] -= 1
        self.answers[end] -= request.answers
        if not self.ends[end]:
            del self.ends[end], self.answers[end]

    @property
    def most_rows(self) -> int:
        """The most rows in any block that is still to run."""
        return max(self.rows_by_block[self.depth :], default=0)

    @property
    def beginning(self) -> int:
        """Images whose stem the next call computes."""
        return 0 if self.depth else len(self.requests)


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What to do now: refuse the requests whose deadlines are lost, and run blocks of the batch, if there is one.

    `seconds` is what these blocks are expected to take; None where that is not known yet.
    """

    refused: Mapping[ScheduledRequest[T], DeadlineError]
    batch: Batch[T] | None
    blocks: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class QueueEntry(Generic[T]):
    """An admitted request: its place, when it came, and its rows summed over the first k blocks.

    `start` is where its tasks' counters will be once their earlier requests are done, on its tenant's clock; `seconds`
    is the service that it is expected to need, in a batch of as many rows as batches have had lately.
    """

    request: ScheduledRequest[T]
    number: int
    arrived: float
    start: float
    seconds: float
    row_blocks: tuple[int, ...]
    batch: Batch[T] | None = None

    @property
    def most_rows(self) -> int:
        return max(self.request.rows)

    @property
    def left(self) -> tuple[int, int, int]:
        """Blocks, row-blocks and images' stems that are still to run."""
        run = 0 if self.batch is None else min(self.batch.depth, len(self.request.rows))
        return len(self.request.rows) - run, self.row_blocks[-1] - self.row_blocks[run], int(not run)

    def expected(self, row_blocks: int) -> float:
        """Seconds of service for so many of its row-blocks, as expected at admission."""
        return self.seconds * row_blocks / self.row_blocks[-1]
