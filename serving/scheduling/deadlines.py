"""Which deadlines are lost, and whether one is in danger."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Generic, TypeVar

from serving.scheduling.cost import EngineCost
from serving.scheduling.requests import QueueEntry, ScheduledRequest
from store.errors import DeadlineError

T = TypeVar("T")
CAUTION = 1.25  # the work ahead of a deadline is assumed to last this many times its expected time


class Deadlines(Generic[T]):
    """Requests with deadlines, the earliest first; checked again when one may be lost or in danger."""

    def __init__(self, cost: EngineCost) -> None:
        self._cost = cost
        self._ordered: list[tuple[float, int, ScheduledRequest[T]]] = []
        self._calm_until = math.inf
        self.in_danger: ScheduledRequest[T] | None = None
        """The request of the earliest deadline, while all can be met if it goes first, and might not be if it waits."""

    def add(self, entry: QueueEntry[T]) -> None:
        if entry.request.deadline is not None:
            insort(self._ordered, (entry.request.deadline, entry.number, entry.request))
            self._calm_until = -math.inf

    def remove(self, entry: QueueEntry[T]) -> None:
        if entry.request.deadline is not None:
            del self._ordered[bisect_left(self._ordered, (entry.request.deadline, entry.number))]
            if self.in_danger is entry.request:
                self.in_danger, self._calm_until = None, -math.inf

    def look(
        self, entries: Mapping[ScheduledRequest[T], QueueEntry[T]], other_s: float, now: float
    ) -> dict[ScheduledRequest[T], DeadlineError]:
        """Return the requests that cannot be answered in time any more; a call for others takes so many seconds.

        A deadline is in danger if it would be missed after one more call for another batch, with all requests run one
        by one by deadline. That order meets all deadlines where any order does (Dertouzos 1974), and few where no
        order can meet all: then no request is in danger, and the schedule decides.
        """
        if now < self._calm_until:
            return {}
        lost: dict[ScheduledRequest[T], DeadlineError] = {}
        work_s, calm_s, feasible, first = 0.0, math.inf, True, None
        for deadline, _, request in self._ordered:
            left_s = self._cost.of(*entries[request].left) if self._cost.known else 0.0
            if now + left_s > deadline:
                lost[request] = late(now + left_s - deadline)
                continue
            first = first or request
            work_s += left_s
            calm_s = min(calm_s, deadline - now - CAUTION * (other_s + work_s))
            feasible = feasible and now + work_s <= deadline
        self._calm_until = now + calm_s
        self.in_danger = first if calm_s < 0 and feasible and self._cost.known else None
        return lost


def late(seconds: float) -> DeadlineError:
    return DeadlineError(
        f"the answer would come {1000 * seconds:.0f} ms or more after its deadline: give it more time (timeout_ms), "
        "try again later or add replicas"
    )
