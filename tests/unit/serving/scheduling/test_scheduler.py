from __future__ import annotations

import itertools

import pytest
from support.simulated_engine import SimulatedEngine, scheduled

from serving.scheduling.requests import ScheduledRequest
from serving.scheduling.scheduler import Scheduler
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


@pytest.mark.parametrize(("fixed", "rows"), [(0.0, 1), (1.0, 3), (1000.0, 9)])
def test_as_many_rows_run_together_as_the_fixed_part_of_a_block_makes_worthwhile(fixed, rows):
    engine = SimulatedEngine(Scheduler(), fixed=fixed)
    engine.admit(*(scheduled(str(index), 12) for index in range(9)))
    assert engine.step().rows == rows


def mean_wait(rows: int, waiting: int, fixed: float, per_row: float) -> float:
    """When `waiting` like rows run in batches of `rows`: their mean time until they are done."""
    batches = [min(rows, waiting - start) for start in range(0, waiting, rows)]
    ends = itertools.accumulate(fixed + per_row * size for size in batches)
    return sum(end * size for end, size in zip(ends, batches, strict=True)) / waiting


@pytest.mark.parametrize("waiting", [2, 5, 9, 30, 100])
@pytest.mark.parametrize("fixed", [0.01, 0.3, 1.0, 3.0, 30.0])
def test_the_size_of_a_batch_makes_the_mean_wait_of_like_rows_almost_as_short_as_any(waiting, fixed):
    engine = SimulatedEngine(Scheduler(), fixed=fixed)
    engine.admit(*(scheduled(str(index), 6) for index in range(waiting)))
    engine.run()
    mean = sum(engine.ended.values()) / waiting / 6
    best = min(mean_wait(rows, waiting, fixed, 1.0) for rows in range(1, waiting + 1))
    assert mean <= 1.15 * best


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
