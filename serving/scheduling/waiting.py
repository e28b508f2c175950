"""Requests that wait, by tenant: those whose turn has come by kind and by age, the others by when it comes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from typing import Generic, TypeVar

from serving.scheduling.fair_shares import QUANTUM_S
from serving.scheduling.requests import QueueEntry

T = TypeVar("T")
Kind = tuple[int, tuple[int, ...]]  # row-blocks, and the rows in each block


class TenantQueue(Generic[T]):
    """A tenant's waiting requests."""

    def __init__(self) -> None:
        self._later: list[tuple[float, int, QueueEntry[T]]] = []
        self._by_age: list[tuple[int, QueueEntry[T]]] = []
        self._by_kind: dict[Kind, list[tuple[float, int, QueueEntry[T]]]] = {}

    def __len__(self) -> int:
        return len(self._later) + len(self._by_age)

    def add(self, entry: QueueEntry[T]) -> None:
        insort(self._later, (entry.start, entry.number, entry))

    def remove(self, entry: QueueEntry[T]) -> None:
        index = bisect_left(self._later, (entry.start, entry.number))
        if index < len(self._later) and self._later[index][2] is entry:
            del self._later[index]
            return
        del self._by_age[bisect_left(self._by_age, (entry.number,))]
        kind = kind_of(entry)
        like = self._by_kind[kind]
        del like[bisect_left(like, (entry.start, entry.number))]
        if not like:
            del self._by_kind[kind]

    @property
    def has_turn(self) -> bool:
        """Whether the turn of any of them has come."""
        return bool(self._by_age)

    @property
    def first_start(self) -> float:
        return self._later[0][0]

    def set_clock(self, now: float) -> None:
        """Let those have their turn that start within a quantum of the tenant's clock."""
        end = bisect_left(self._later, (now + QUANTUM_S,))
        for start, number, entry in self._later[:end]:
            insort(self._by_age, (number, entry))
            insort(self._by_kind.setdefault(kind_of(entry), []), (start, number, entry))
        del self._later[:end]

    def oldest(self) -> Iterator[tuple[int, QueueEntry[T]]]:
        yield from self._by_age

    def kinds(self) -> Iterable[Kind]:
        return self._by_kind

    def like(self, kind: Kind, clock: float) -> Iterator[tuple[float, int, QueueEntry[T]]]:
        """Yield those of a kind, with how far beyond the tenant's clock they start."""
        for start, number, entry in self._by_kind.get(kind, ()):
            yield start - clock, number, entry


class WaitingRequests(Generic[T]):
    """The waiting requests of all tenants."""

    def __init__(self) -> None:
        self._queues: dict[str, TenantQueue[T]] = {}
        self.rows = 0
        """Rows that wait, each request counted at the most that it has in a block."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def tenants(self) -> Iterable[str]:
        return self._queues.keys()

    def add(self, entry: QueueEntry[T]) -> None:
        self._queues.setdefault(entry.request.tenant, TenantQueue()).add(entry)
        self.rows += entry.most_rows

    def remove(self, entry: QueueEntry[T]) -> None:
        queue = self._queues[entry.request.tenant]
        queue.remove(entry)
        if not queue:
            del self._queues[entry.request.tenant]
        self.rows -= entry.most_rows

    def set_clocks(self, clocks: Mapping[str, float], *, idle: bool) -> None:
        """Let those have their turn that start within a quantum of their tenants' clocks.

        If the engine would `idle`, for none of them does, the clocks count from the tenants' first ones.
        """
        queues = [self._queues[tenant] for tenant in clocks]
        for queue, now in zip(queues, clocks.values(), strict=True):
            queue.set_clock(now)
        if idle and not any(queue.has_turn for queue in queues):
            for queue in queues:
                queue.set_clock(queue.first_start)

    def oldest(self, tenants: Iterable[str]) -> Iterator[QueueEntry[T]]:
        """Yield these tenants' requests whose turn has come, in the order of their arrival."""
        for _, entry in merge(*(self._queues[tenant].oldest() for tenant in tenants)):
            yield entry

    def kinds(self, tenants: Iterable[str]) -> list[Kind]:
        """Return the kinds of these tenants' requests whose turn has come, the least work first."""
        return sorted({kind for tenant in tenants for kind in self._queues[tenant].kinds()})

    def like(self, kind: Kind, clocks: Mapping[str, float]) -> Iterator[QueueEntry[T]]:
        """Yield the requests of a kind, those first whose tenants and tasks had least beyond their shares."""
        for _, _, entry in merge(*(self._queues[tenant].like(kind, clock) for tenant, clock in clocks.items())):
            yield entry


def kind_of(entry: QueueEntry[T]) -> Kind:
    return entry.row_blocks[-1], entry.request.rows
