"""How many blocks one call of the engine runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated_engine import SimulatedEngine, scheduled

from serving.scheduling.batches import CALL_S, OVERHEAD_S
from serving.scheduling.scheduler import Scheduler


@pytest.mark.parametrize(
    ("block_s", "calls"), [(CALL_S, [1] * 12), (CALL_S / 3.1, [3] * 4), (CALL_S / 20, [12])], ids=["1", "3", "all"]
)
def test_a_call_runs_as_many_blocks_as_take_a_few_milliseconds(block_s, calls):
    engine = SimulatedEngine(Scheduler(), per_row=block_s)
    engine.admit(scheduled("a", 12))
    assert engine.run().calls == calls


def test_until_the_cost_of_a_block_is_known_a_call_runs_one():
    scheduler: Scheduler[str] = Scheduler()
    scheduler.admit(scheduled("a", 12), 0.0)
    decision = scheduler.next(0.0)
    assert (decision.blocks, decision.seconds) == (1, None)


@pytest.mark.parametrize(("deep", "calls"), [(1, [4, 8]), (16, [12])], ids=["few go on", "many go on"])
def test_a_call_ends_where_requests_end_unless_more_would_wait_for_the_next_call(deep, calls):
    engine = SimulatedEngine(Scheduler(schedule="first-come"), fixed=OVERHEAD_S / 4, per_row=1e-9)
    engine.admit(scheduled("shallow", 4), *(scheduled(f"deep {index}", 12) for index in range(deep)))
    assert engine.run().calls == calls


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=12),
    st.sampled_from([CALL_S / 40, CALL_S / 10, CALL_S, 3 * CALL_S]),
    st.lists(st.integers(0, 2), max_size=30),
)
def test_whatever_the_calls_every_row_runs_all_its_blocks_and_a_newcomer_waits_for_one_short_call(
    depths, block_s, come
):
    engine, names = SimulatedEngine(Scheduler(), fixed=block_s / 2, per_row=block_s / 2), iter(range(10**6))
    for count in come:
        engine.admit(*(scheduled(str(next(names)), depths[index % len(depths)]) for index in range(count)))
        before = engine.now
        batch = engine.step()
        if batch is not None:
            most = block_s / 2 * (1 + len(batch.requests))
            assert engine.now - before <= max(1.05 * CALL_S, most) + 1e-9
    engine.run()
    assert not engine.scheduler
    assert len(engine.ended) == sum(come)
