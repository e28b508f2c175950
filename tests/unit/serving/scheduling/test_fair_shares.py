from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine, scheduled

from serving.scheduling.fair_shares import KEPT, MOST_LEAD_S, QUANTUM_S, TENANT_QUANTUM_S, FairShares
from serving.scheduling.scheduler import GRACE_S, SCHEDULES, Scheduler
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

    A queued request is counted at what requests took lately, in batches of the size that was lately usual: how far that
    is off counts for as many requests as are within a quantum.
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
    assert max(shares) - min(shares) <= 2 * QUANTUM_S + 10 * 12 * (fixed * flood / 2 + 0.05)


@given(
    floods=st.lists(st.integers(2, 60), min_size=2, max_size=5),
    depths=st.lists(st.integers(1, 12), min_size=5, max_size=5),
    fixed=st.sampled_from([0.0, 0.001, 0.01]),
    schedule=st.sampled_from(sorted(SCHEDULES)),
)
@example(floods=[29, 9], depths=[12, 1, 1, 1, 1], fixed=0.01, schedule="first-come")
@example(floods=[24, 60], depths=[5, 12, 1, 1, 1], fixed=0.001, schedule="first-come")
@settings(max_examples=12, deadline=None)
def test_tenants_that_always_have_work_get_like_block_seconds_whatever_their_tasks_and_number(
    floods, depths, fixed, schedule
):
    """Each tenant keeps its number of requests queued, each for a task of its own.

    One may be a quantum and a batch ahead, another as much behind, while the batch that runs has not charged all.
    """
    scheduler: Scheduler[str] = Scheduler(schedule=schedule, max_rows=64, max_waiting=10**6)
    engine, numbers = SimulatedEngine(scheduler, fixed=fixed, per_row=0.002), itertools.count()
    names: dict[int, set[str]] = {index: set() for index in range(len(floods))}

    def refill(_: int) -> None:
        for index, flood in enumerate(floods):
            names[index] -= engine.ended.keys()
            while len(names[index]) < flood:
                names[index].add(name := f"{index}/{next(numbers)}")
                engine.admit(scheduled(name, depths[index], tenant=f"tenant {index}"))

    engine.run(1200, before=refill)
    shares = [engine.tenant_seconds.get(f"tenant {index}", 0.0) for index in range(len(floods))]
    batch_s = 12 * (fixed + 64 * 0.002)
    assert max(shares) - min(shares) <= 2 * (TENANT_QUANTUM_S + batch_s) + batch_s


def test_a_tenant_with_a_hundred_tasks_gets_no_more_than_one_with_a_single_task():
    engine = SimulatedEngine(Scheduler(max_rows=16, max_waiting=10**6), fixed=0.01, per_row=0.01)
    engine.admit(*(scheduled(f"many {index}", 12, tenant="many") for index in range(600)))
    engine.admit(*(scheduled(f"one {index}", 12, task="one", tenant="one") for index in range(600)))
    engine.run(600)
    assert engine.tenant_seconds["one"] == pytest.approx(engine.tenant_seconds["many"], rel=0.2)


def test_what_a_tenant_had_while_it_was_alone_is_not_held_against_it():
    engine = SimulatedEngine(Scheduler(max_rows=4, max_waiting=10**6), per_row=0.01)
    engine.admit(*(scheduled(f"early {index}", 12, task="early", tenant="early") for index in range(400)))
    engine.run(1200)
    had = engine.tenant_seconds["early"]
    engine.admit(*(scheduled(f"late {index}", 12, task="late", tenant="late") for index in range(400)))
    engine.run(1200)
    assert engine.tenant_seconds["early"] - had == pytest.approx(engine.tenant_seconds["late"], rel=0.2)


@pytest.mark.parametrize(
    ("waited_s", "away_s", "owed_s"),
    [(0.5, 0.0, 0.5), (0.5, 0.2, 0.3), (0.5, 0.5, 0.0), (0.5, 9.0, 0.0), (99.0, 0.0, 4.0)],
)
def test_what_a_party_waited_for_in_vain_is_owed_to_it_less_the_time_that_it_was_away(waited_s, away_s, owed_s):
    assert MOST_LEAD_S == 4.0
    shares = FairShares()
    shares.enter(["other"], 1.0)
    shares.enter(["party"], 0.01)
    shares.pass_time(2 * waited_s)  # of which each of the two should have had half
    shares.leave(["party"], 0.01)
    shares.pass_time(away_s)
    assert shares.enter(["party"], 0.01) == pytest.approx(shares.now)
    shares.enter(["party"], 0.01)  # no more of it is queued than this
    assert shares.lead("party") == pytest.approx(-owed_s)


def test_no_more_than_a_bound_of_parties_without_work_is_remembered():
    shares = FairShares()
    shares.enter(["other"], 1.0)
    for index in range(3 * KEPT):
        shares.enter([f"party {index}"], 0.01)
        shares.pass_time(0.5)
        shares.leave([f"party {index}"], 0.01)
    assert len(shares) <= KEPT + 1


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("deadline_s", [None, 1.0])
def test_no_row_starves_though_fresh_tasks_with_less_work_never_end(deadline_s, schedule):
    """At each block new tasks ask for less, with or without a deadline in danger."""
    engine = SimulatedEngine(Scheduler(schedule=schedule, max_waiting=8), per_row=0.1)
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

    all_s = 1.2 + 8 * 0.3
    bound_s = SCHEDULES[schedule] * all_s + GRACE_S + 2 * all_s
    engine.run(int(bound_s / 0.1), before=newcomers)
    assert engine.ended["victim"] <= bound_s
    assert schedule == "first-come" or sum(name != "victim" for name in engine.ended) > 10
