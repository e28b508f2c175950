from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine, scheduled

from serving.scheduling.scheduler import GRACE_S, Scheduler
from store.errors import DeadlineError


def test_a_deadline_in_danger_goes_before_less_work_and_one_that_is_far_does_not():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("deep", 12, deadline=1000.0), scheduled("shallow", 4))
    engine.run()
    assert engine.ended["shallow"] < engine.ended["deep"]
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("deep", 12, deadline=15.0), scheduled("shallow", 4))
    engine.run()
    assert engine.ended["deep"] <= 15.0 < engine.ended["shallow"]


def test_among_deadlines_in_danger_the_earliest_goes_first():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("later", 4, deadline=14.0), scheduled("sooner", 6, deadline=8.0))
    engine.run()
    assert engine.ended == {"sooner": 6.0, "later": 10.0}


def test_where_not_all_deadlines_can_be_met_least_work_goes_first_and_meets_most():
    engine = SimulatedEngine(Scheduler())
    engine.admit(
        scheduled("deep", 12, deadline=12.5), *(scheduled(f"shallow {index}", 4, deadline=13.0) for index in range(3))
    )
    engine.run()
    assert engine.ended == {"shallow 0": 4.0, "shallow 1": 8.0, "shallow 2": 12.0}
    assert set(engine.refused) == {"deep"}


@pytest.mark.parametrize(
    ("deadline", "fixed", "together"),
    [(60.0, 1.0, 8), (34.0, 1.0, 6), (20.0, 1.0, 1), (None, 1.0, 8), (60.0, 0.1, 1), (None, 0.1, 8)],
    ids=["all in time", "six in time", "one in time", "no deadlines", "little saved", "little saved, no deadlines"],
)
def test_as_many_requests_run_together_as_are_in_time_together(deadline, fixed, together):
    """A block over n rows takes fixed + 0.2 n: 12 of 6 rows 26 s, of 8 rows 31 s; with a quarter more for caution."""
    engine = SimulatedEngine(Scheduler(), fixed=fixed, per_row=0.2)
    engine.admit(*(scheduled(str(index), 12, deadline=deadline) for index in range(8)))
    assert len(engine.step().requests) == together


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 15)), min_size=1, max_size=8))
def test_where_the_earliest_deadline_first_meets_all_deadlines_all_are_met(works):
    """Deadlines are met one after the other with some room each; meanwhile, less work may go first.

    All is over within the grace after which what has waited goes before deadlines.
    """
    engine, ends, requests = SimulatedEngine(Scheduler(), per_row=0.01), 0.0, []
    assert 8 * 12 * engine.per_row < GRACE_S
    for index, (depth, room) in enumerate(works):
        ends += depth * engine.per_row
        deadline = 1.01 * ends + room * engine.per_row  # what a block costs is learnt, and a little off
        requests.append(scheduled(str(index), depth, deadline=deadline))
    engine.admit(*requests)
    engine.run()
    assert not engine.refused
    assert all(engine.ended[request.item] <= request.deadline for request in requests)


def test_a_deadline_that_cannot_be_met_is_refused_at_once_with_by_how_much_it_would_be_missed():
    engine = SimulatedEngine(Scheduler())
    with pytest.raises(DeadlineError, match=r"come 20\d\d ms or more after its deadline: .*timeout_ms"):
        engine.admit(scheduled("late", 12, deadline=10.0))
    assert len(engine.scheduler) == 0


def test_one_that_waited_until_its_deadline_is_lost_is_refused_and_never_run():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("a", 6, deadline=8.0), scheduled("b", 6, deadline=8.5))
    engine.run()
    assert engine.ended == {"a": 6.0}
    assert set(engine.refused) == {"b"}
    assert not any("b" in rows for rows in engine.ran)
    assert len(engine.scheduler) == 0


def test_nothing_is_refused_for_its_deadline_while_the_cost_of_a_block_is_unknown():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.admit(scheduled("a", 12, deadline=1e-9), 0.0)
    assert scheduler.next(0.0).batch.requests[0].item == "a"
