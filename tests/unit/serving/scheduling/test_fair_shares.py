from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine, scheduled

from serving.scheduling.scheduler import GRACE_S, QUANTUM_S, Scheduler
from store.errors import OverloadedError


def test_a_rare_task_goes_next_while_another_floods_the_queue():
    engine = SimulatedEngine(Scheduler(), per_row=0.01)
    engine.admit(*(scheduled(f"hot {index}", 12, task="hot") for index in range(200)))
    engine.run(12 * 50 + 5)
    engine.admit(scheduled("rare", 12))
    engine.run(12 + 7)
    assert "rare" in engine.ended


@given(
    depths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    fixed=st.sampled_from([0.0, 0.02]),
    flood=st.integers(2, 6),
)
@example(depths=[12, 1], fixed=0.02, flood=6)
@settings(max_examples=12, deadline=None)
def test_tasks_that_always_have_work_get_like_block_seconds_whatever_their_depth_and_number(depths, fixed, flood):
    """Each task keeps `flood` requests queued, the first of them ten times as many.

    A queued request is counted at what it takes alone, more than its share of a batch: the fixed part of a block counts
    against a task for as many requests as it has queued.
    """
    engine, numbers = SimulatedEngine(Scheduler(max_waiting=10**6), fixed=fixed, per_row=0.05), itertools.count()
    names: dict[int, set[str]] = {index: set() for index in range(len(depths))}

    def refill(_: int) -> None:
        for index, depth in enumerate(depths):
            names[index] -= engine.ended.keys()
            while len(names[index]) < flood * (10 if index == 0 else 1):
                names[index].add(name := f"{index}/{next(numbers)}")
                engine.admit(scheduled(name, depth, task=f"task {index}"))

    engine.run(600, before=refill)
    shares = [engine.seconds.get(f"task {index}", 0.0) for index in range(len(depths))]
    assert max(shares) - min(shares) <= QUANTUM_S + 10 * 12 * (fixed * flood / 2 + 0.05)


@pytest.mark.parametrize("deadline_s", [None, 1.0])
def test_no_row_starves_though_fresh_tasks_with_less_work_never_end(deadline_s):
    """At each block a new task asks for one block less, with or without a deadline in danger."""
    engine = SimulatedEngine(Scheduler(max_waiting=8), per_row=0.1)
    victim = scheduled("victim", 12)
    engine.admit(victim)
    numbers = itertools.count()

    def newcomers(_: int) -> None:
        while True:
            deadline = None if deadline_s is None else engine.now + deadline_s
            try:
                engine.admit(scheduled(f"new {next(numbers)}", 3, deadline=deadline))
            except OverloadedError:
                return

    tasks = 10
    bound_s = tasks * (QUANTUM_S + GRACE_S + 2 * 1.2) + 8 * 1.2
    engine.run(int(bound_s / 0.1), before=newcomers)
    assert "victim" in engine.ended
    assert sum(name != "victim" for name in engine.ended) > 10
