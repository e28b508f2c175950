"""An engine whose blocks take the time that a test sets, under the real scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.scheduling.requests import Batch, ScheduledRequest
from serving.scheduling.scheduler import Scheduler


def scheduled(name: str, depth: int, *, task: str = "", deadline: float | None = None) -> ScheduledRequest[str]:
    return ScheduledRequest(name, (task or name,), (1,) * depth, deadline)


@dataclass
class SimulatedEngine:
    """A machine on which a block over n rows takes fixed + per_row * n seconds, and its clock."""

    scheduler: Scheduler[str]
    fixed: float = 0.0
    per_row: float = 1.0
    now: float = 0.0
    ran: list[tuple[str, ...]] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What each task got of the engine."""

    def __post_init__(self) -> None:
        for rows in (1, 2) * 100:
            self.scheduler.cost.learn(rows, self.fixed + self.per_row * rows)

    def step(self) -> Batch[str] | None:
        """Run one block."""
        decision = self.scheduler.next(self.now)
        self.refused.update({request.item: self.now for request in decision.refused})
        batch = decision.batch
        if batch is None:
            return None
        seconds = self.fixed + self.per_row * batch.rows
        self.now += seconds
        for request in batch.live:
            for task in request.tasks:
                part = seconds * request.rows[batch.depth] / batch.rows / len(request.tasks)
                self.seconds[task] = self.seconds.get(task, 0.0) + part
        ending = [request for request in batch.live if len(request.rows) == batch.depth + 1]
        self.ran.append(tuple(request.item for request in batch.requests if len(request.rows) > batch.depth))
        self.scheduler.block_finished(batch, seconds)
        self.ended.update({request.item: self.now for request in ending})
        return batch

    def run(self, blocks: float = float("inf"), *, before: Callable[[int], None] = lambda _: None) -> SimulatedEngine:
        for index in itertools.count():
            before(index)
            if index >= blocks or self.step() is None:
                return self
        raise AssertionError

    def admit(self, *requests: ScheduledRequest[str]) -> None:
        for request in requests:
            self.scheduler.admit(request, self.now)
