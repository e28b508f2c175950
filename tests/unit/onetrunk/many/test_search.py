"""Successive halving: which settings go on, and for how many epochs."""

from __future__ import annotations

import random

import pytest

from onetrunk.many.search import Rung, begin, rungs


def test_a_third_goes_on_and_runs_three_times_as_long():
    assert rungs(9, 9, prune=True) == (Rung(1, 3), Rung(3, 1))
    assert rungs(27, 27, prune=True) == (Rung(1, 9), Rung(3, 3), Rung(9, 1))
    assert rungs(4, 2, prune=True) == (Rung(1, 1),)
    assert rungs(9, 9, prune=False) == (Rung(9, 1),)
    assert rungs(1, 9, prune=True) == ()


@pytest.mark.parametrize("seed", range(20))
def test_the_survivors_are_those_of_a_sort_written_out(seed):
    chance = random.Random(seed)
    names = [f"s{index}" for index in range(chance.randint(2, 30))]
    search, left = begin(dict.fromkeys(names), 20, prune=True), list(names)
    while not search.done:
        keep = search.rungs[search.rung].keep
        accuracies = {name: chance.choice([0.1, 0.2, 0.3, None]) for name in search.alive[1:]} | {search.alive[0]: 0.1}
        for name in chance.sample(search.alive, len(search.alive)):
            over = search.record(name, accuracies[name])
        assert over
        known = [name for name in left if accuracies[name] is not None]
        best = sorted((-accuracies[name], names.index(name)) for name in known)[:keep]
        left = [names[index] for index in sorted(index for _, index in best)]
        assert search.alive == left
    assert len(left) == 1


def test_where_all_settings_fail_none_is_left():
    search = begin(dict.fromkeys(["a", "b"]), 4, prune=True)
    assert not search.record("a", None)
    assert search.record("b", None)
    assert search.alive == []
