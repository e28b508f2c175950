"""Which heads and units are kept at a budget, by one sort for each kind or one for both."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from sls.width.importance import Importance, TokenScores, flops_share
from store.errors import InvalidSettingError
from store.records.width import kept_places

RANDOM = np.random.default_rng(0)
HEADS, UNITS = RANDOM.random((4, 3)), RANDOM.random((4, 20))


def importance(*, joint: bool = False, head_cost: float = 30.0) -> Importance:
    return Importance(HEADS, UNITS, joint, head_cost)


@pytest.mark.parametrize("budget", [0.01, 0.3, 0.5, 0.7, 1.0])
def test_one_sort_over_all_blocks_keeps_the_highest_of_each_kind(budget: float) -> None:
    width = importance().at(budget)
    for scores, masks in ((HEADS, [m.heads for m in width.masks]), (UNITS, [m.units for m in width.masks])):
        count = scores.size - int((1 - budget) * scores.size + 1e-9)
        threshold = np.sort(scores.ravel())[::-1][count - 1]
        for block, mask in enumerate(masks):
            above = set(np.flatnonzero(scores[block] >= threshold)) or {scores[block].argmax()}
            assert set(kept_places(mask)) == above


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_one_threshold_for_both_kinds_keeps_to_the_budget_of_operations(budget: float) -> None:
    flat = Importance(np.ones((4, 3)) * 0.5 + HEADS / 1e6, UNITS, joint=True, head_cost=5.0)
    width = flat.at(budget)
    assert flops_share(width, 5.0) <= budget + 4 * 6 / (4 * 35)  # a head and a unit for each block that was empty
    lowest = min(flat.units[b][u] for b, m in enumerate(width.masks) for u in kept_places(m.units))
    dropped = [flat.units[b][u] for b, m in enumerate(width.masks) for u in range(20) if not m.units >> u & 1]
    assert budget < 0.5 or max(dropped) <= lowest


def test_no_block_is_left_without_a_head_or_a_unit() -> None:
    heads, units = HEADS.copy(), UNITS.copy()
    heads[2] -= 10
    units[1] -= 10
    width = Importance(heads, units, joint=False, head_cost=30.0).at(0.3)
    assert width.heads_kept[2] == width.units_kept[1] == 1
    assert kept_places(width.masks[2].heads) == [heads[2].argmax()]


def test_an_ordered_backbone_keeps_as_many_of_the_first() -> None:
    free, nested = importance().at(0.5), replace(importance(), nested=True).at(0.5)
    assert nested.is_prefix
    assert (free.heads_kept, free.units_kept) == (nested.heads_kept, nested.units_kept)


def test_the_share_of_operations_is_the_budget_where_one_sort_keeps_it() -> None:
    assert flops_share(importance().at(0.5), 30.0) == pytest.approx(0.5, abs=0.05)
    assert flops_share(importance().at(1.0), 30.0) == 1.0


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_patches_are_kept_by_one_sort_so_that_what_a_block_keeps_all_before_it_keep(seed: int, share: float) -> None:
    scores = np.random.default_rng(seed).random((5, 24)).round(1)  # with equal ones
    index = TokenScores(scores, 4, 6, 1, 0.0).at(share)
    assert sum(index.patches_kept) == max(5, round(share * scores.size))
    levels, best = index.levels, scores[-1].argmax()
    assert levels[best] == 5  # so no block is empty
    kept = [scores[block:, patch].max() for patch in range(24) for block in range(levels[patch]) if patch != best]
    left = [scores[block:, patch].max() for patch in range(24) for block in range(levels[patch], 5)]
    assert min(kept, default=1) >= max(left, default=0)


def test_the_share_of_operations_counts_patches_as_their_square_does() -> None:
    width, dim, size, prefix = importance().at(0.5), 30, 10, 1
    tokens = TokenScores(np.random.default_rng(1).random((4, 24)), 4, 6, prefix, 25 * size / dim)
    whole = replace(importance(head_cost=(2 * dim + 25) * size / dim), tokens=tokens)
    index = whole.tokens_at(0.6, 4)
    assert index is not None

    def operations(there: int, heads: int, units: int) -> int:
        return heads * (8 * there * dim * size + 4 * there**2 * size) + units * 4 * there * dim

    pairs = zip(width.heads_kept, width.units_kept, index.patches_kept, strict=True)
    kept = sum(operations(prefix + patches, heads, units) for heads, units, patches in pairs)
    assert whole.share(width, index) == pytest.approx(kept / (4 * operations(25, 3, 20)))
    assert whole.tokens_at(1.0, 4) is whole.tokens_at(None, 4) is importance().tokens_at(0.5, 4) is None
    assert whole.first(2).tokens_at(0.6, 2) == whole.tokens_at(0.6, 2)


@pytest.mark.parametrize("budget", [0, -0.5, 1.01, float("nan"), True, "0.5"])
def test_a_budget_of_nothing_or_more_than_all_is_refused(budget: object) -> None:
    with pytest.raises(InvalidSettingError, match="above 0 and at most 1"):
        importance().at(budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("group", [1, 3, 4, 20])
def test_units_of_a_group_stay_or_go_together_by_their_mean_score(joint: bool, group: int) -> None:
    width = replace(importance(joint=joint, head_cost=2.0), unit_group=group).at(0.5)
    bounds = [*range(0, 20, group), 20]
    for mask, scores in zip(width.masks, UNITS, strict=True):
        kept = {place // group for place in kept_places(mask.units)}
        assert sum(bounds[index + 1] - bounds[index] for index in kept) == len(kept_places(mask.units))
        means = [scores[start:end].mean() for start, end in pairwise(bounds)]
        left_out = set(range(len(means))) - kept
        assert not left_out or min(means[index] for index in kept) >= max(means[index] for index in left_out)


def test_groups_of_one_are_the_units_themselves() -> None:
    assert replace(importance(), unit_group=1).at(0.4) == importance().at(0.4)


def test_a_group_above_the_units_of_a_block_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="groups of 21 units: a block has 20"):
        replace(importance(), unit_group=21).at(0.5)
