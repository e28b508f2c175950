from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine, scheduled

from onetrunk.cli.options import Schedule
from serving.scheduling.batches import SPARED
from serving.scheduling.requests import ScheduledRequest
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, SCHEDULES, Scheduler
from store.errors import InvalidSettingError, OverloadedError


def test_a_shallow_request_goes_between_two_blocks_of_a_deep_one_which_then_goes_on_where_it_was():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("deep", 12))
    engine.run(2)
    engine.admit(scheduled("shallow", 4))
    engine.run()
    assert engine.ran == [("deep",)] * 2 + [("shallow",)] * 4 + [("deep",)] * 10


def test_a_deep_request_that_is_almost_done_is_not_interrupted():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("deep", 12))
    engine.run(9)
    engine.admit(scheduled("shallow", 4))
    engine.run()
    assert engine.ran == [("deep",)] * 12 + [("shallow",)] * 4


def test_a_shallow_row_leaves_a_batch_at_its_depth_and_the_others_go_on_without_it():
    engine = SimulatedEngine(Scheduler(), fixed=100.0)
    engine.admit(scheduled("a", 4), scheduled("b", 2), scheduled("c", 4))
    engine.run()
    assert [len(rows) for rows in engine.ran] == [3, 3, 2, 2]
    assert engine.ended["b"] < engine.ended["a"] == engine.ended["c"]


@pytest.mark.parametrize(("fixed", "rows"), [(0.0, 1), (0.1, 9), (1000.0, 9)])
def test_rows_of_like_work_run_together_where_a_block_has_a_fixed_part(fixed, rows):
    engine = SimulatedEngine(Scheduler(), fixed=fixed)
    engine.admit(*(scheduled(str(index), 12) for index in range(9)))
    assert len(engine.step().requests) == rows


@pytest.mark.parametrize(("fixed", "together"), [(0.1, {"shallow"}), (30.0, {"shallow", "deep"})])
def test_deep_requests_join_a_shallow_one_where_that_makes_the_batch_answer_more_a_second(fixed, together):
    engine = SimulatedEngine(Scheduler(), fixed=fixed)
    engine.admit(scheduled("shallow", 4), *(scheduled(f"deep {index}", 12) for index in range(4)))
    assert {request.item.partition(" ")[0] for request in engine.step().requests} == together


def answers_a_second(depths: Sequence[int], fixed: float) -> float:
    return len(depths) / (fixed * max(depths) + sum(depths))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.sampled_from([0.1, 1.0, 10.0]))
def test_a_batch_begins_as_the_least_work_first_that_answers_most_a_second(depths, fixed):
    engine = SimulatedEngine(Scheduler(), fixed=fixed)
    engine.admit(*(scheduled(str(index), depth) for index, depth in enumerate(depths)))
    ordered = sorted(depths)
    best = max(answers_a_second(ordered[: index + 1], fixed) for index in range(len(ordered)))
    chosen = [len(request.rows) for request in engine.step().requests]
    assert answers_a_second(chosen, fixed) >= 0.99 * (1 - SPARED) * best


def test_one_whose_client_went_away_costs_nothing_and_a_batch_nobody_waits_for_ends():
    engine = SimulatedEngine(Scheduler())
    waiting, running = scheduled("waiting", 12), scheduled("running", 4)
    engine.admit(running, waiting)
    batch = engine.step()
    assert not engine.scheduler.abort(waiting)
    assert engine.scheduler.abort(running)
    assert not batch.live
    assert engine.step() is None
    assert engine.ran == [("running",)]
    assert not engine.scheduler.abort(running)


def test_rows_of_one_image_are_one_request_whose_rows_grow_where_its_tasks_differ():
    engine = SimulatedEngine(Scheduler())
    engine.admit(ScheduledRequest("image", ("a", "b", "c"), (1, 1, 3, 3, 2)))
    assert [engine.step().depth for _ in range(5)] == [1, 2, 3, 4, 5]
    assert engine.now == 1 + 1 + 3 + 3 + 2
    assert engine.seconds == pytest.approx({"a": 10 / 3, "b": 10 / 3, "c": 10 / 3})


def test_more_tasks_for_one_image_than_memory_has_rows_for_are_refused():
    with pytest.raises(InvalidSettingError, match="5 tasks for one image make 5 rows, memory holds 4"):
        Scheduler(max_rows=4).admit(ScheduledRequest("image", tuple("abcde"), (1, 5)), 0.0)


def test_a_full_queue_refuses_the_next_request_with_the_remedy():
    scheduler: Scheduler[str] = Scheduler(max_waiting=1)
    scheduler.admit(scheduled("a", 1), 0.0)
    with pytest.raises(OverloadedError, match="at most 1 may: try again later"):
        scheduler.admit(scheduled("b", 1), 0.0)


def test_a_batch_that_failed_is_forgotten_and_the_next_one_runs():
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("a", 4), scheduled("b", 4))
    engine.scheduler.fail(engine.step())
    engine.run()
    assert set(engine.ended) == {"b"}


def test_an_unknown_schedule_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidSettingError, match="no schedule 'fifo': choose one of stretch, least-work, first-come"):
        Scheduler(schedule="fifo")


def test_first_come_takes_all_that_wait_into_one_batch_and_lets_it_end():
    engine = SimulatedEngine(Scheduler(schedule="first-come"), fixed=0.0)
    engine.admit(scheduled("deep", 6), scheduled("shallow", 2))
    engine.run(1)
    engine.admit(scheduled("shallow later", 1))
    engine.run()
    assert engine.ran == [("deep", "shallow")] * 2 + [("deep",)] * 4 + [("shallow later",)]


def test_what_waited_longer_than_all_that_is_there_takes_goes_before_less_work_with_all_others_that_did():
    """Two deep requests wait behind shallow ones, of which one always comes when one ends."""
    engine = SimulatedEngine(Scheduler())
    engine.admit(scheduled("deep", 12), scheduled("deep too", 12))

    def refill(call: int) -> None:
        if call % 2 == 0:
            engine.admit(scheduled(f"shallow {call}", 2))

    all_s = 12 + 12 + 2 * 2
    engine.run(int(2.5 * all_s + 24), before=refill)
    assert engine.ran[0] != ("deep",)
    assert max(engine.ended["deep"], engine.ended["deep too"]) <= SCHEDULES["stretch"] * all_s + 24
    assert engine.ended["deep"] == engine.ended["deep too"]


def test_the_command_line_names_the_schedules_that_there_are():
    assert [each.value for each in Schedule] == list(SCHEDULES)
    assert Schedule.STRETCH.value == DEFAULT_SCHEDULE
