from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sls.scoring.cutoff import Scoring, cut_by_share, cut_by_tolerance
from store.errors import InvalidSettingError
from store.records.evidence import PruneIndex
from store.records.manifest import decode

scores_strategy = st.lists(st.floats(-1, 1), min_size=1, max_size=24)
positive_last = scores_strategy.filter(lambda scores: scores[-1] > 0)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=24).filter(lambda scores: max(scores) > 0)
alphas = st.floats(0, 1)
tolerances = st.floats(0, 0.5)
broken_numbers = st.sampled_from([math.nan, math.inf, -math.inf])


def scoring(scores: list[float], scored: list[int] | None = None, **options: object) -> Scoring:
    """Scores that are known, and a note of each block that is asked for."""
    notes = [] if scored is None else scored
    given = {"criterion": "given", "samples": 400, **options}
    return Scoring(lambda block: notes.append(block) or scores[block - 1], len(scores), **given)


def by_share(scores: list[float], alpha: float = 0.3, *, every: bool = False, **options: object) -> PruneIndex:
    return cut_by_share(scoring(scores, **options), alpha, every=every)


def by_tolerance(scores: list[float], tolerance: float = 0.01, **options: object) -> PruneIndex:
    return cut_by_tolerance(scoring(scores, **options), tolerance)


def paper_depth(scores: list[float], alpha: float) -> int:
    """T = alpha SC_N; the highest block below T ends the walk; blocks i+2..N go."""
    below = [block for block, score in enumerate(scores, start=1) if score < alpha * scores[-1]]
    return min(max(below) + 1, len(scores)) if below else 1


# ----------------------------------------------------------------------------------------------- a share of the last


@given(positive_last, alphas)
def test_the_depth_is_one_above_the_highest_block_below_the_threshold(scores, alpha):
    assert by_share(scores, alpha).depth == paper_depth(scores, alpha)


@given(positive_last, alphas)
def test_blocks_below_the_one_that_ends_the_walk_are_never_scored(scores, alpha):
    scored: list[int] = []
    index = cut_by_share(scoring(scores, scored), alpha)
    lowest = index.depth - 1 if any(s < index.threshold for s in scores) else 1
    assert scored == list(range(len(scores), lowest - 1, -1))
    assert [block for block, score in enumerate(index.scores, start=1) if score is not None] == scored[::-1]


@given(positive_last, alphas, alphas)
def test_a_higher_alpha_never_prunes_more(scores, one, other):
    assert by_share(scores, min(one, other)).depth <= by_share(scores, max(one, other)).depth


@given(scores_strategy.filter(lambda scores: scores[-1] <= 0), alphas)
def test_a_last_score_not_above_zero_prunes_nothing_and_says_why(scores, alpha):
    index = by_share(scores, alpha)
    assert (index.depth, index.threshold) == (len(scores), None)
    assert "not above 0" in index.reason


@given(positive_last, broken_numbers, st.data())
def test_a_score_that_is_no_number_prunes_nothing_and_names_the_block(scores, broken, data):
    raised_cut = paper_depth(scores, 0.3) - 1 or 1
    block = data.draw(st.integers(raised_cut, len(scores)))
    scores[block - 1] = broken
    index = by_share(scores)
    assert (index.depth, index.threshold) == (len(scores), None)
    assert f"block {block} " in index.reason


@given(positive_last, alphas, st.floats(0, 0.2))
def test_every_decision_survives_its_json(scores, alpha, noise):
    for index in (by_share(scores, alpha, noise=noise), by_tolerance([abs(score) for score in scores], alpha / 2)):
        assert decode(PruneIndex, json.dumps(dataclasses.asdict(index), allow_nan=False).encode(), "index") == index


def test_a_score_equal_to_the_threshold_is_kept():
    assert by_share([0.1, 0.25, 0.5, 1.0], 0.5).depth == 3


def test_only_the_first_crossing_from_the_top_counts():
    assert by_share([0.9, 0.1, 0.8, 0.1, 0.7, 1.0]).depth == 5


def test_scores_that_never_fall_below_the_threshold_keep_one_block():
    assert by_share([0.9, 0.9, 1.0]).depth == 1


def test_a_single_block_stays():
    assert by_share([0.5]).depth == 1


def test_the_last_block_never_fails_its_own_threshold():
    assert by_share([0.2, 0.3, 0.4], 1.0).depth == 3


def test_samples_without_a_score_are_not_scored():
    scored: list[int] = []
    for index in (
        cut_by_share(scoring([0.5] * 12, scored, undefined="one class"), 0.3, every=True),
        cut_by_tolerance(scoring([0.5] * 12, scored, undefined="one class"), 0.01),
    ):
        assert (index.depth, index.reason, index.scores, index.candidates) == (12, "one class", (None,) * 12, ())
    assert not scored


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(InvalidSettingError, match="alpha"):
        by_share([0.1, 0.2], alpha)


@given(positive_last, alphas)
def test_scoring_every_block_decides_the_same_and_leaves_none_out(scores, alpha):
    index = by_share(scores, alpha, every=True)
    assert index.scores == tuple(scores)
    assert (index.depth, index.threshold) == (by_share(scores, alpha).depth, alpha * scores[-1])


def test_scoring_every_block_of_an_undefined_rule_still_fills_the_picture():
    assert by_share([0.1, math.nan, 0.3, -0.2], every=True).scores == (0.1, None, 0.3, -0.2)


# ------------------------------------------------------------------------------------------------- what is left open


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7).filter(lambda s: s[-1] > 0.2), alphas, st.floats(0.01, 0.2))
def test_the_depths_left_open_are_those_of_every_way_that_the_near_scores_can_fall(scores, alpha, noise):
    threshold = alpha * scores[-1]
    ways = [{score < threshold} | ({True, False} if abs(score - threshold) < noise else set()) for score in scores[:-1]]
    depths = set()
    for below in itertools.product(*ways):
        highest = max((block for block, low in enumerate(below, start=1) if low), default=0)
        depths.add(min(highest + 1, len(scores)))
    index = by_share(scores, alpha, noise=noise)
    assert index.candidates == (tuple(sorted(depths)) if len(depths) > 1 else ())
    assert index.depth == paper_depth(scores, alpha)


def test_a_stop_within_the_noise_goes_on_to_the_first_sure_one():
    scored: list[int] = []
    index = cut_by_share(scoring([0.0, 0.9, 0.1, 0.9, 0.29, 0.9, 1.0], scored, noise=0.02), 0.3)
    assert (index.depth, index.candidates) == (6, (4, 6))
    assert scored == [7, 6, 5, 4, 3]


def test_a_near_score_above_the_threshold_leaves_its_stop_open():
    assert by_share([0.0, 0.31, 0.9, 1.0], noise=0.02).candidates == (2, 3)
    assert by_share([0.0, 0.31, 0.9, 1.0], noise=0.02).depth == 2


def test_a_score_as_far_as_the_noise_is_decided():
    assert by_share([0.0, 0.25, 0.75, 1.0], 0.5, noise=0.25).candidates == ()


def test_a_last_score_within_its_noise_of_zero_leaves_nothing_pruned_open():
    assert by_share([-0.5, 0.5, 0.01], noise=0.02).candidates == (2, 3)


def test_no_number_below_an_unsure_stop_leaves_nothing_pruned_open():
    index = by_share([0.9, math.nan, 0.29, 0.9, 1.0], noise=0.02)
    assert (index.depth, index.candidates, index.reason) == (4, (4, 5), None)


# ----------------------------------------------------------------------------------------- a tolerance below the best


@given(shares, tolerances, st.integers(2, 2000))
def test_the_depth_is_the_smallest_that_is_within_the_tolerance_or_a_standard_error_of_the_best(scores, tolerance, n):
    best = max(scores)
    error = math.sqrt(best * (1 - best) / n)
    depth = 1
    while scores[depth - 1] < best - max(tolerance, error):
        depth += 1
    index = by_tolerance(scores, tolerance, samples=n)
    assert (index.depth, index.scores, index.candidates) == (depth, tuple(scores), ())
    assert (index.tolerance, index.alpha) == (tolerance, None)


@given(shares, tolerances, tolerances)
def test_a_greater_tolerance_never_keeps_more(scores, one, other):
    assert by_tolerance(scores, max(one, other)).depth <= by_tolerance(scores, min(one, other)).depth


def test_a_score_at_the_tolerance_is_within_it():
    assert by_tolerance([0.25, 0.75, 1.0], 0.25, samples=10_000).depth == 2


def test_few_samples_widen_the_tolerance_to_a_standard_error():
    assert by_tolerance([0.78, 0.8], samples=10_000).depth == 2
    assert by_tolerance([0.78, 0.8], samples=100).depth == 1


def test_a_best_block_below_the_top_bounds_the_depth():
    assert by_tolerance([0.2, 0.9, 0.5, 0.4]).depth == 2


@given(shares, broken_numbers, st.data())
def test_a_share_that_is_no_number_prunes_nothing_and_names_the_block(scores, broken, data):
    block = data.draw(st.integers(1, len(scores)))
    scores[block - 1] = broken
    index = by_tolerance(scores)
    assert (index.depth, index.threshold) == (len(scores), None)
    assert f"block {block} " in index.reason


def test_shares_that_are_all_zero_prune_nothing_and_say_why():
    index = by_tolerance([0.0, 0.0])
    assert (index.depth, index.threshold) == (2, None)
    assert "not above 0" in index.reason


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, math.nan])
def test_a_tolerance_that_is_no_share_of_accuracy_is_refused(tolerance):
    with pytest.raises(InvalidSettingError, match="tolerance"):
        by_tolerance([0.1, 0.2], tolerance)
