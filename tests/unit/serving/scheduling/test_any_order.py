"""Whatever the order of requests, cancellations and blocks: no request is lost, and memory is never exceeded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine

from serving.scheduling.requests import Batch, ScheduledRequest
from serving.scheduling.scheduler import SCHEDULES, Scheduler
from store.errors import OverloadedError

moves = st.one_of(
    st.tuples(
        st.just("admit"), st.integers(1, 12), st.integers(1, 4), st.sampled_from([None, 5.0, 40.0]), st.integers(0, 2)
    ),
    st.tuples(st.just("abort"), st.integers(0, 30)),
    st.tuples(st.just("run"), st.integers(1, 9)),
)


@dataclass
class Trial:
    """What was asked of a scheduler, and who went away."""

    engine: SimulatedEngine
    max_rows: int
    admitted: list[ScheduledRequest[str]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    begun: set[Batch[str]] = field(default_factory=set)

    def admit(self, depth: int, rows: int, patience: float | None, tenant: int) -> None:
        number = len(self.admitted)
        tasks = tuple(f"task {(number + index) % 5}" for index in range(rows))
        deadline = None if patience is None else self.engine.now + patience
        new = ScheduledRequest(f"request {number}", tasks, (rows,) * depth, deadline, f"tenant {tenant}")
        try:
            self.engine.admit(new)
        except OverloadedError:
            return
        self.admitted.append(new)

    def abort(self, number: int) -> None:
        if not self.admitted:
            return
        target = self.admitted[number % len(self.admitted)]
        if target.item not in self.engine.ended.keys() | self.engine.refused.keys():
            self.gone.add(target.item)
        self.engine.scheduler.abort(target)

    def run(self, calls: float = float("inf")) -> None:
        for _ in itertools.takewhile(lambda index: index < calls, itertools.count()):
            batch = self.engine.step()
            if batch is None:
                return
            self.begun.add(batch)
            assert sum(each.most_rows for each in self.begun if each.live) <= self.max_rows


@given(
    st.lists(moves, max_size=60),
    st.sampled_from([(0.0, 1.0), (1.0, 1.0), (20.0, 1.0), (1e-4, 1e-4)]),
    st.integers(4, 12),
    st.sampled_from(sorted(SCHEDULES)),
)
@settings(max_examples=100, deadline=None)
def test_every_request_is_run_to_its_end_refused_or_aborted_and_memory_is_never_passed(moves, cost, max_rows, schedule):
    scheduler: Scheduler[str] = Scheduler(schedule=schedule, max_rows=max_rows, max_waiting=40)
    trial = Trial(SimulatedEngine(scheduler, fixed=cost[0], per_row=cost[1]), max_rows)
    for kind, *values in moves:
        getattr(trial, kind)(*values)
    trial.run()
    engine = trial.engine
    assert len(engine.scheduler) == 0
    outcomes: Sequence[set[str]] = (set(engine.ended), set(engine.refused), trial.gone)
    assert set.union(*outcomes) == {each.item for each in trial.admitted}
    assert sum(map(len, outcomes)) == len(trial.admitted)
    for each in trial.admitted:
        blocks = sum(each.item in rows for rows in engine.ran)
        assert blocks == len(each.rows) if each.item in engine.ended else blocks <= len(each.rows)
