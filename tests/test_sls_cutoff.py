from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls.cutoff import cut
from store.errors import InvalidSettingError
from store.evidence import PruneIndex
from store.records import decode

scores_strategy = st.lists(st.floats(-1, 1), min_size=1, max_size=24)
positive_last = scores_strategy.filter(lambda scores: scores[-1] > 0)
alphas = st.floats(0, 1)


def decide(scores: list[float], alpha: float = 0.3, **options: object) -> PruneIndex:
    return cut(lambda block: scores[block - 1], len(scores), alpha, criterion="given", **options)


def paper_depth(scores: list[float], alpha: float) -> int:
    """T = alpha SC_N; the highest block below T ends the walk; blocks i+2..N go."""
    below = [block for block, score in enumerate(scores, start=1) if score < alpha * scores[-1]]
    return min(max(below) + 1, len(scores)) if below else 1


@given(positive_last, alphas)
def test_the_depth_is_one_above_the_highest_block_below_the_threshold(scores, alpha):
    assert decide(scores, alpha).depth == paper_depth(scores, alpha)


@given(positive_last, alphas)
def test_blocks_below_the_one_that_ends_the_walk_are_never_scored(scores, alpha):
    asked: list[int] = []
    index = cut(lambda block: asked.append(block) or scores[block - 1], len(scores), alpha, criterion="given")
    lowest = index.depth - 1 if any(s < index.threshold for s in scores) else 1
    assert asked == list(range(len(scores), lowest - 1, -1))
    assert [block for block, score in enumerate(index.scores, start=1) if score is not None] == asked[::-1]


@given(positive_last, alphas, alphas)
def test_a_higher_alpha_never_prunes_more(scores, one, other):
    assert decide(scores, min(one, other)).depth <= decide(scores, max(one, other)).depth


@given(scores_strategy.filter(lambda scores: scores[-1] <= 0), alphas)
def test_a_last_score_not_above_zero_prunes_nothing_and_says_why(scores, alpha):
    index = decide(scores, alpha)
    assert (index.depth, index.threshold) == (len(scores), None)
    assert "not above 0" in index.reason


@given(positive_last, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_a_score_that_is_no_number_prunes_nothing_and_names_the_block(scores, broken, data):
    walked = paper_depth(scores, 0.3) - 1 or 1
    block = data.draw(st.integers(walked, len(scores)))
    scores[block - 1] = broken
    index = decide(scores)
    assert (index.depth, index.threshold) == (len(scores), None)
    assert f"block {block} " in index.reason


@given(positive_last, alphas)
def test_every_decision_survives_its_json(scores, alpha):
    index = decide(scores, alpha)
    assert decode(PruneIndex, json.dumps(dataclasses.asdict(index), allow_nan=False).encode(), "index") == index


def test_a_score_equal_to_the_threshold_is_kept():
    assert decide([0.1, 0.25, 0.5, 1.0], 0.5).depth == 3


def test_only_the_first_crossing_from_the_top_counts():
    assert decide([0.9, 0.1, 0.8, 0.1, 0.7, 1.0]).depth == 5


def test_scores_that_never_fall_below_the_threshold_keep_one_block():
    assert decide([0.9, 0.9, 1.0]).depth == 1


def test_a_single_block_stays():
    assert decide([0.5]).depth == 1


def test_the_last_block_never_fails_its_own_threshold():
    assert decide([0.2, 0.3, 0.4], 1.0).depth == 3


def test_samples_without_a_score_are_not_scored():
    index = cut(lambda _: pytest.fail("scored"), 12, 0.3, criterion="given", undefined="one class")
    assert (index.depth, index.reason, index.scores) == (12, "one class", (None,) * 12)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(InvalidSettingError, match="alpha"):
        decide([0.1, 0.2], alpha)


@given(positive_last, alphas)
def test_scoring_every_block_decides_the_same_and_leaves_none_out(scores, alpha):
    index = decide(scores, alpha, every=True)
    assert index.scores == tuple(scores)
    assert (index.depth, index.threshold) == (decide(scores, alpha).depth, alpha * scores[-1])
