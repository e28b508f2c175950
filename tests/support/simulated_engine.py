"""An engine whose blocks take the time that a test sets, under the real scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.scheduling.requests import Batch, ScheduledRequest
from serving.scheduling.scheduler import Scheduler


def scheduled(
    name: str, depth: int, *, task: str = "", deadline: float | None = None, tenant: str = ""
) -> ScheduledRequest[str]:
    return ScheduledRequest(name, (task or name,), (1,) * depth, deadline, tenant)


@dataclass
class SimulatedEngine:
    """A machine on which a block over n rows takes fixed + per_row * n seconds and a call so many more; its clock."""

    scheduler: Scheduler[str]
    fixed: float = 0.0
    per_row: float = 1.0
    per_call: float = 0.0
    now: float = 0.0
    ran: list[tuple[str, ...]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    """Blocks of each call."""
    ended: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What each task got of the engine."""
    tenant_seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rows in (1, 2) * 100:
            self.scheduler.cost.block.learn(rows, self.fixed + self.per_row * rows)

    def step(self) -> Batch[str] | None:
        """Run one call."""
        decision = self.scheduler.next(self.now)
        self.refused.update({request.item: self.now for request in decision.refused})
        batch = decision.batch
        if batch is None:
            return None
        depths = range(batch.depth, batch.depth + decision.blocks)
        seconds = self.per_call + sum(self._run_block(batch, depth) for depth in depths)
        self.calls.append(decision.blocks)
        self.now += seconds
        ending = [request for request in batch.live if len(request.rows) <= batch.depth + decision.blocks]
        self.scheduler.blocks_finished(batch, decision.blocks, seconds)
        self.ended.update({request.item: self.now for request in ending})
        return batch

    def _run_block(self, batch: Batch[str], depth: int) -> float:
        rows = batch.rows_by_block[depth]
        seconds = self.fixed + self.per_row * rows
        there = [request for request in batch.requests if len(request.rows) > depth]
        self.ran.append(tuple(request.item for request in there))
        for request in there:
            part = seconds * request.rows[depth] / rows if request in batch.live else 0.0
            self.tenant_seconds[request.tenant] = self.tenant_seconds.get(request.tenant, 0.0) + part
            for task in request.tasks:
                self.seconds[task] = self.seconds.get(task, 0.0) + part / len(request.tasks)
        return seconds

    def run(self, calls: float = float("inf"), *, before: Callable[[int], None] = lambda _: None) -> SimulatedEngine:
        for index in itertools.count():
            before(index)
            if index >= calls or self.step() is None:
                return self
        raise AssertionError

    def admit(self, *requests: ScheduledRequest[str]) -> None:
        for request in requests:
            self.scheduler.admit(request, self.now)
