from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.scheduling.cost import BlockCost
from serving.scheduling.jobs import Batch, ScheduledRequest
from serving.scheduling.scheduler import GRACE_S, QUANTUM_S, Scheduler
from store.errors import DeadlineError, InvalidSettingError, OverloadedError


def job(name: str, depth: int, *, task: str = "", deadline: float | None = None) -> ScheduledRequest[str]:
    return ScheduledRequest(name, (task or name,), (1,) * depth, deadline)


@dataclass
class Engine:
    """A machine on which a block over n rows takes fixed + per_row * n seconds, and its clock."""

    scheduler: Scheduler[str]
    fixed: float = 0.0
    per_row: float = 1.0
    now: float = 0.0
    ran: list[tuple[str, ...]] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rows in (1, 2) * 100:
            self.scheduler.cost.learn(rows, self.fixed + self.per_row * rows)

    def step(self) -> Batch[str] | None:
        """Run one block."""
        step = self.scheduler.next(self.now)
        self.refused.update({job.item: self.now for job in step.refused})
        batch = step.batch
        if batch is None:
            return None
        seconds = self.fixed + self.per_row * batch.rows
        self.now += seconds
        for each in batch.live:
            for task in each.tasks:
                part = seconds * each.rows[batch.depth] / batch.rows / len(each.tasks)
                self.served[task] = self.served.get(task, 0.0) + part
        ending = [each for each in batch.live if len(each.rows) == batch.depth + 1]
        self.ran.append(tuple(each.item for each in batch.jobs if len(each.rows) > batch.depth))
        self.scheduler.block_finished(batch, seconds)
        self.ended.update({each.item: self.now for each in ending})
        return batch

    def run(self, blocks: float = float("inf"), *, before: Callable[[int], None] = lambda _: None) -> Engine:
        for index in itertools.count():
            before(index)
            if index >= blocks or self.step() is None:
                return self
        raise AssertionError

    def admit(self, *jobs: ScheduledRequest[str]) -> None:
        for each in jobs:
            self.scheduler.admit(each, self.now)


def test_a_shallow_job_goes_between_two_blocks_of_a_deep_one_which_then_goes_on_where_it_was():
    engine = Engine(Scheduler())
    engine.admit(job("deep", 12))
    engine.run(2)
    engine.admit(job("shallow", 4))
    engine.run()
    assert engine.ran == [("deep",)] * 2 + [("shallow",)] * 4 + [("deep",)] * 10


def test_a_deep_job_that_is_almost_done_is_not_interrupted():
    engine = Engine(Scheduler())
    engine.admit(job("deep", 12))
    engine.run(9)
    engine.admit(job("shallow", 4))
    engine.run()
    assert engine.ran == [("deep",)] * 12 + [("shallow",)] * 4


def test_a_shallow_row_leaves_a_batch_at_its_depth_and_the_others_go_on_without_it():
    engine = Engine(Scheduler(), fixed=100.0)
    engine.admit(job("a", 4), job("b", 2), job("c", 4))
    engine.run()
    assert [len(rows) for rows in engine.ran] == [3, 3, 2, 2]
    assert engine.ended["b"] < engine.ended["a"] == engine.ended["c"]


@pytest.mark.parametrize(("fixed", "rows"), [(0.0, 1), (1.0, 3), (1000.0, 9)])
def test_as_many_rows_run_together_as_the_fixed_part_of_a_block_makes_worthwhile(fixed, rows):
    engine = Engine(Scheduler(), fixed=fixed)
    engine.admit(*(job(str(index), 12) for index in range(9)))
    assert engine.step().rows == rows


def mean_wait(rows: int, waiting: int, fixed: float, per_row: float) -> float:
    """When `waiting` like rows run in batches of `rows`: their mean time until they are done."""
    batches = [min(rows, waiting - start) for start in range(0, waiting, rows)]
    ends = itertools.accumulate(fixed + per_row * size for size in batches)
    return sum(end * size for end, size in zip(ends, batches, strict=True)) / waiting


@pytest.mark.parametrize("waiting", [2, 5, 9, 30, 100])
@pytest.mark.parametrize("fixed", [0.01, 0.3, 1.0, 3.0, 30.0])
def test_the_size_of_a_batch_makes_the_mean_wait_of_like_rows_almost_as_short_as_any(waiting, fixed):
    engine = Engine(Scheduler(), fixed=fixed)
    engine.admit(*(job(str(index), 6) for index in range(waiting)))
    engine.run()
    found = sum(engine.ended.values()) / waiting / 6
    best = min(mean_wait(rows, waiting, fixed, 1.0) for rows in range(1, waiting + 1))
    assert found <= 1.15 * best


def test_the_cost_of_a_block_is_learnt_from_blocks_of_different_sizes_through_noise_and_interruptions():
    cost, draw = BlockCost(), random.Random(0)
    assert not cost.known
    for _ in range(300):
        rows = draw.choice([1, 1, 1, 2, 3])
        seconds = (0.004 + 0.002 * rows) * draw.lognormvariate(0, 0.05)
        cost.learn(rows, seconds * (20 if draw.random() < 0.02 else 1))
    assert cost.of(12, 24) == pytest.approx(12 * 0.004 + 24 * 0.002, rel=0.2)
    assert cost.fixed == pytest.approx(0.004, rel=0.35)


def test_a_slow_start_is_forgotten_within_a_few_blocks():
    cost = BlockCost()
    for seconds in (5.0, 3.0, 1.0, 0.5, 0.2, *[0.01] * 12):
        cost.learn(1, seconds)
    assert cost.of(1, 1) == pytest.approx(0.01, rel=0.5)


def test_before_two_sizes_were_seen_both_parts_are_taken_to_be_equal_so_that_two_rows_soon_run_together():
    cost = BlockCost()
    for _ in range(10):
        cost.learn(1, 0.01)
    assert cost.fixed == pytest.approx(cost.per_row) == pytest.approx(0.005)


def test_a_rare_task_goes_next_while_another_floods_the_queue():
    engine = Engine(Scheduler(), per_row=0.01)
    engine.admit(*(job(f"hot {index}", 12, task="hot") for index in range(200)))
    engine.run(12 * 50 + 5)
    engine.admit(job("rare", 12))
    engine.run(12 + 7)
    assert "rare" in engine.ended


@given(
    depths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    fixed=st.sampled_from([0.0, 0.02]),
    flood=st.integers(2, 6),
)
@settings(max_examples=12, deadline=None)
def test_tasks_that_always_have_work_get_like_block_seconds_whatever_their_depth_and_number(depths, fixed, flood):
    """Each task keeps `flood` jobs queued, the first of them ten times as many."""
    engine, made = Engine(Scheduler(max_waiting=10**6), fixed=fixed, per_row=0.05), itertools.count()
    names: dict[int, set[str]] = {index: set() for index in range(len(depths))}

    def refill(_: int) -> None:
        for index, depth in enumerate(depths):
            names[index] -= engine.ended.keys()
            while len(names[index]) < flood * (10 if index == 0 else 1):
                names[index].add(name := f"{index}/{next(made)}")
                engine.admit(job(name, depth, task=f"task {index}"))

    engine.run(600, before=refill)
    shares = [engine.served.get(f"task {index}", 0.0) for index in range(len(depths))]
    assert max(shares) - min(shares) <= QUANTUM_S + 10 * 12 * (fixed + 0.05)


@pytest.mark.parametrize("deadline_s", [None, 1.0])
def test_no_row_starves_though_fresh_tasks_with_less_work_never_end(deadline_s):
    """At each block a new task asks for one block less, with or without a deadline in danger."""
    engine = Engine(Scheduler(max_waiting=8), per_row=0.1)
    victim = job("victim", 12)
    engine.admit(victim)
    made = itertools.count()

    def newcomers(_: int) -> None:
        while True:
            deadline = None if deadline_s is None else engine.now + deadline_s
            try:
                engine.admit(job(f"new {next(made)}", 3, deadline=deadline))
            except OverloadedError:
                return

    tasks = 10
    bound_s = tasks * (QUANTUM_S + GRACE_S + 2 * 1.2) + 8 * 1.2
    engine.run(int(bound_s / 0.1), before=newcomers)
    assert "victim" in engine.ended
    assert sum(name != "victim" for name in engine.ended) > 10


def test_a_deadline_in_danger_goes_before_less_work_and_one_that_is_far_does_not():
    engine = Engine(Scheduler())
    engine.admit(job("deep", 12, deadline=1000.0), job("shallow", 4))
    engine.run()
    assert engine.ended["shallow"] < engine.ended["deep"]
    engine = Engine(Scheduler())
    engine.admit(job("deep", 12, deadline=15.0), job("shallow", 4))
    engine.run()
    assert engine.ended["deep"] <= 15.0 < engine.ended["shallow"]


def test_among_deadlines_in_danger_the_earliest_goes_first():
    engine = Engine(Scheduler())
    engine.admit(job("later", 4, deadline=14.0), job("sooner", 6, deadline=8.0))
    engine.run()
    assert engine.ended == {"sooner": 6.0, "later": 10.0}


def test_where_not_all_deadlines_can_be_met_least_work_goes_first_and_meets_most():
    engine = Engine(Scheduler())
    engine.admit(job("deep", 12, deadline=12.5), *(job(f"shallow {index}", 4, deadline=13.0) for index in range(3)))
    engine.run()
    assert engine.ended == {"shallow 0": 4.0, "shallow 1": 8.0, "shallow 2": 12.0}
    assert set(engine.refused) == {"deep"}


@pytest.mark.parametrize(
    ("deadline", "fixed", "together"),
    [(60.0, 1.0, 8), (34.0, 1.0, 6), (None, 1.0, 5), (60.0, 0.1, 2), (None, 0.1, 2)],
    ids=["all in time", "six in time", "no deadlines", "little saved", "little saved, no deadlines"],
)
def test_jobs_that_are_in_time_together_run_together_where_that_saves_much(deadline, fixed, together):
    """A block over n rows takes fixed + 0.2 n: 12 of 6 rows 26 s, of 8 rows 31 s; with a quarter more for caution."""
    engine = Engine(Scheduler(), fixed=fixed, per_row=0.2)
    engine.admit(*(job(str(index), 12, deadline=deadline) for index in range(8)))
    assert len(engine.step().jobs) == together


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 15)), min_size=1, max_size=8))
def test_where_the_earliest_deadline_first_meets_all_deadlines_all_are_met(works):
    """Deadlines are met one after the other with some room each; meanwhile, less work may go first.

    All is over within the grace after which what has waited goes before deadlines.
    """
    engine, ends, jobs = Engine(Scheduler(), per_row=0.01), 0.0, []
    assert 8 * 12 * engine.per_row < GRACE_S
    for index, (depth, room) in enumerate(works):
        ends += depth * engine.per_row
        deadline = 1.01 * ends + room * engine.per_row  # what a block costs is learnt, and a little off
        jobs.append(job(str(index), depth, deadline=deadline))
    engine.admit(*jobs)
    engine.run()
    assert not engine.refused
    assert all(engine.ended[each.item] <= each.deadline for each in jobs)


def test_a_deadline_that_cannot_be_met_is_refused_at_once_with_by_how_much_it_would_be_missed():
    engine = Engine(Scheduler())
    with pytest.raises(DeadlineError, match=r"come 20\d\d ms or more after its deadline: .*timeout_ms"):
        engine.admit(job("late", 12, deadline=10.0))
    assert len(engine.scheduler) == 0


def test_one_that_waited_until_its_deadline_is_lost_is_refused_and_never_run():
    engine = Engine(Scheduler())
    engine.admit(job("a", 6, deadline=8.0), job("b", 6, deadline=8.5))
    engine.run()
    assert engine.ended == {"a": 6.0}
    assert set(engine.refused) == {"b"}
    assert not any("b" in rows for rows in engine.ran)
    assert len(engine.scheduler) == 0


def test_nothing_is_refused_for_its_deadline_while_the_cost_of_a_block_is_unknown():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.admit(job("a", 12, deadline=1e-9), 0.0)
    assert scheduler.next(0.0).batch.jobs[0].item == "a"


def test_one_whose_client_went_away_costs_nothing_and_a_batch_nobody_waits_for_ends():
    engine = Engine(Scheduler())
    waiting, running = job("waiting", 12), job("running", 4)
    engine.admit(running, waiting)
    batch = engine.step()
    assert not engine.scheduler.abort(waiting)
    assert engine.scheduler.abort(running)
    assert not batch.live
    assert engine.step() is None
    assert engine.ran == [("running",)]
    assert not engine.scheduler.abort(running)


def test_rows_of_one_image_are_one_job_whose_rows_grow_where_its_tasks_part():
    engine = Engine(Scheduler())
    engine.admit(ScheduledRequest("image", ("a", "b", "c"), (1, 1, 3, 3, 2)))
    assert [engine.step().depth for _ in range(5)] == [1, 2, 3, 4, 5]
    assert engine.now == 1 + 1 + 3 + 3 + 2
    assert engine.served == pytest.approx({"a": 10 / 3, "b": 10 / 3, "c": 10 / 3})


def test_more_tasks_for_one_image_than_memory_has_rows_for_are_refused():
    with pytest.raises(InvalidSettingError, match="5 tasks for one image make 5 rows, memory holds 4"):
        Scheduler(max_rows=4).admit(ScheduledRequest("image", tuple("abcde"), (1, 5)), 0.0)


def test_a_full_queue_refuses_the_next_request_with_the_remedy():
    scheduler: Scheduler[str] = Scheduler(max_waiting=1)
    scheduler.admit(job("a", 1), 0.0)
    with pytest.raises(OverloadedError, match="at most 1 may: try again later"):
        scheduler.admit(job("b", 1), 0.0)


def test_a_batch_that_failed_is_forgotten_and_the_next_one_runs():
    engine = Engine(Scheduler())
    engine.admit(job("a", 4), job("b", 4))
    engine.scheduler.fail(engine.step())
    engine.run()
    assert set(engine.ended) == {"b"}


moves = st.one_of(
    st.tuples(st.just("admit"), st.integers(1, 12), st.integers(1, 4), st.sampled_from([None, 5.0, 40.0])),
    st.tuples(st.just("withdraw"), st.integers(0, 30)),
    st.tuples(st.just("run"), st.integers(1, 9)),
)


@dataclass
class Trial:
    """What was asked of a scheduler, and who went away."""

    engine: Engine
    max_rows: int
    admitted: list[ScheduledRequest[str]] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    begun: set[Batch[str]] = field(default_factory=set)

    def admit(self, depth: int, rows: int, patience: float | None) -> None:
        number = len(self.admitted)
        tasks = tuple(f"task {(number + index) % 5}" for index in range(rows))
        deadline = None if patience is None else self.engine.now + patience
        new = ScheduledRequest(f"job {number}", tasks, (rows,) * depth, deadline)
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

    def run(self, blocks: float = float("inf")) -> None:
        for _ in itertools.takewhile(lambda index: index < blocks, itertools.count()):
            batch = self.engine.step()
            if batch is None:
                return
            self.begun.add(batch)
            assert sum(each.most_rows for each in self.begun if each.live) <= self.max_rows


@given(st.lists(moves, max_size=60), st.sampled_from([0.0, 1.0, 20.0]), st.integers(4, 12))
@settings(max_examples=100, deadline=None)
def test_every_job_is_run_to_its_end_refused_or_withdrawn_and_memory_is_never_passed(moves, fixed, max_rows):
    trial = Trial(Engine(Scheduler(max_rows=max_rows, max_waiting=40), fixed=fixed), max_rows)
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
