from __future__ import annotations

import random

import pytest

from serving.scheduling.cost import BlockCost, EngineCost


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


def test_what_the_stem_costs_is_learnt_beside_the_blocks_even_where_every_call_begins_with_it():
    cost, draw = EngineCost(), random.Random(0)
    for _ in range(30):
        rows = draw.choice([1, 2, 3])
        cost.learn(1, rows, 0, 0.004 + 0.002 * rows)
    for slowness in (1, 2):
        for _ in range(300):
            rows = draw.choice([1, 2, 3])
            cost.learn(12, 12 * rows, rows, slowness * (0.01 * rows + 12 * (0.004 + 0.002 * rows)))
        assert cost.of(12, 24, 2) == pytest.approx(slowness * (0.02 + 12 * 0.008), rel=0.1)
        assert cost.of(12, 24) == pytest.approx(slowness * 12 * 0.008, rel=0.1)


def test_a_call_of_many_blocks_counts_with_the_rows_that_each_had():
    cost, draw = EngineCost(), random.Random(0)
    for _ in range(100):
        rows = sorted((draw.randint(1, 9) for _ in range(4)), reverse=True)
        cost.learn(4, sum(rows), 0, sum(0.004 + 0.002 * each for each in rows))
    assert cost.of(10, 30) == pytest.approx(10 * 0.004 + 30 * 0.002, rel=0.05)
