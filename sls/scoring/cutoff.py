"""From scores to a depth: the paper's share of the last score, or a tolerance below the best."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from store.errors import InvalidSettingError
from store.records.evidence import PruneIndex


@dataclass(frozen=True)
class Scoring:
    """Scores on request, `score_at(i)` for blocks i = 1..blocks, and what the prune index records of them.

    `undefined` says why there is no score, if that is known beforehand. A score may be off by `noise`.
    """

    score_at: Callable[[int], float]
    blocks: int
    criterion: str
    samples: int
    seed: int = 0
    noise: float = 0.0
    undefined: str | None = None


def cut_by_share(scoring: Scoring, alpha: float, *, every: bool = False) -> PruneIndex:
    """T = alpha * s_N; i = max{i : s_i < T}; depth = min(i + 1, N), or 1 where no block is below T.

    Blocks are scored from the top until a score is below T by at least its noise. Scores nearer to T leave several
    depths open. `every` also scores the blocks below. Nothing is pruned, and the reason is recorded, if the rule is
    undefined: there is no score, s_N is not above 0, or a score is not a finite number.
    """
    if not 0 <= alpha <= 1:
        raise InvalidSettingError(f"alpha {alpha}: the threshold is a share of the last score, give 0 <= alpha <= 1")
    scores = _BlockScores(scoring)
    outcome = _scan_down(scores, scoring, alpha)
    if every and scoring.undefined is None:
        scores.all()
    return scores.index(outcome, alpha=alpha)


def cut_by_tolerance(scoring: Scoring, tolerance: float) -> PruneIndex:
    """depth = min{i : s_i >= T}, T = max_j s_j - max(tolerance, SE), SE = sqrt(s (1 - s) / n) of the best score s.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984) for scores that are shares
    (0..1) of n samples; every block is scored. Nothing is pruned, and the reason is recorded, if there is no score, a
    score is not a finite number, or no score is above 0.
    """
    if not 0 <= tolerance < 1:
        raise InvalidSettingError(f"tolerance {tolerance}: give a share of accuracy, 0 <= tolerance < 1, as 0.01")
    scores = _BlockScores(scoring)
    return scores.index(_first_within(scores, scoring, tolerance), tolerance=tolerance)


@dataclass(frozen=True)
class _Outcome:
    """A depth with its threshold and all depths that are left open, or the reason why there is none."""

    depth: int = 0
    threshold: float | None = None
    reason: str | None = None
    left_open: frozenset[int] = frozenset()


def _scan_down(scores: _BlockScores, scoring: Scoring, alpha: float) -> _Outcome:
    blocks = scoring.blocks
    if scoring.undefined is not None:
        return _Outcome(reason=scoring.undefined)
    last = scores.at(blocks)
    if not math.isfinite(last):
        return _Outcome(reason=_not_finite(blocks, last))
    if last <= 0:
        return _Outcome(reason=f"the score of the last block is {last:.4f}, not above 0: nothing is pruned")
    threshold, depth = alpha * last, None
    left_open = {blocks} if last < scoring.noise else set()
    for block in range(blocks - 1, 0, -1):
        score = scores.at(block)
        if not math.isfinite(score):
            if depth is None:
                return _Outcome(reason=_not_finite(block, score))
            left_open.add(blocks)
            break
        if score - threshold < scoring.noise or score < threshold:
            left_open.add(block + 1)
        if score < threshold:
            depth = depth or block + 1
            if threshold - score >= scoring.noise:
                break
    else:
        depth = depth or 1
        left_open.add(1)
    assert depth is not None
    return _Outcome(depth, threshold, left_open=frozenset(left_open))


def _first_within(scores: _BlockScores, scoring: Scoring, tolerance: float) -> _Outcome:
    if scoring.undefined is not None:
        return _Outcome(reason=scoring.undefined)
    values = scores.all()
    for block, score in enumerate(values, start=1):
        if not math.isfinite(score):
            return _Outcome(reason=_not_finite(block, score))
    best = max(values)
    if best <= 0:
        return _Outcome(reason=f"the best score is {best:.4f}, not above 0: nothing is pruned")
    threshold = best - max(tolerance, math.sqrt(best * (1 - best) / scoring.samples))
    return _Outcome(next(block for block, score in enumerate(values, start=1) if score >= threshold), threshold)


def _not_finite(block: int, score: float) -> str:
    return f"the score of block {block} is {score}: nothing is pruned"


class _BlockScores:
    """The scores by block, each computed once, on first use."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring, self.values = scoring, dict[int, float]()

    def at(self, block: int) -> float:
        if block not in self.values:
            self.values[block] = float(self.scoring.score_at(block))
        return self.values[block]

    def all(self) -> list[float]:
        """Score the remaining blocks from the top, and return all scores from block 1 on."""
        return [self.at(block) for block in range(self.scoring.blocks, 0, -1)][::-1]

    def index(self, outcome: _Outcome, *, alpha: float | None = None, tolerance: float | None = None) -> PruneIndex:
        scores = (self.values.get(block, math.nan) for block in range(1, self.scoring.blocks + 1))
        return PruneIndex(
            depth=outcome.depth or self.scoring.blocks,
            blocks=self.scoring.blocks,
            criterion=self.scoring.criterion,
            alpha=alpha,
            threshold=outcome.threshold,
            scores=tuple(score if math.isfinite(score) else None for score in scores),
            seed=self.scoring.seed,
            samples=self.scoring.samples,
            reason=outcome.reason,
            tolerance=tolerance,
            candidates=tuple(sorted(outcome.left_open)) if len(outcome.left_open) > 1 else (),
        )
