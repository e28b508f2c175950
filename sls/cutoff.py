"""The paper's rule: walk from the top to the first block whose score falls below alpha times the last block's."""

from __future__ import annotations

import math
from collections.abc import Callable

from store.errors import InvalidSettingError
from store.evidence import PruneIndex


def cut(
    score_at: Callable[[int], float],
    blocks: int,
    alpha: float,
    *,
    criterion: str,
    seed: int = 0,
    samples: int = 0,
    undefined: str | None = None,
    every: bool = False,
) -> PruneIndex:
    """T = alpha * s_N; i = max{i : s_i < T}; depth = min(i + 1, N), or 1 where no block is below T.

    `score_at(i)` is called for i = N, N-1, ... and never below the block that ends the walk, unless `every`
    asks for the scores that decide nothing. Nothing is pruned, and the reason is kept, where the rule is
    undefined: `undefined` says so beforehand, s_N is not above 0, or a score is not a number.
    """
    if not 0 <= alpha <= 1:
        raise InvalidSettingError(f"alpha {alpha}: the threshold is a share of the last score, give 0 <= alpha <= 1")
    scores: list[float | None] = [None] * blocks
    depth, threshold, reason = blocks, None, undefined
    if reason is None:
        depth, threshold, reason = _walk(score_at, scores, alpha)
        for block in range(blocks, 0, -1):
            if every and scores[block - 1] is None:
                score = float(score_at(block))
                scores[block - 1] = score if math.isfinite(score) else None
    return PruneIndex(
        depth=depth,
        blocks=blocks,
        criterion=criterion,
        alpha=alpha,
        threshold=threshold,
        scores=tuple(scores),
        seed=seed,
        samples=samples,
        reason=reason,
    )


def _walk(
    score_at: Callable[[int], float], scores: list[float | None], alpha: float
) -> tuple[int, float | None, str | None]:
    blocks = len(scores)
    threshold = None
    for block in range(blocks, 0, -1):
        score = float(score_at(block))
        if not math.isfinite(score):
            return blocks, None, f"the score of block {block} is {score}: nothing is pruned"
        scores[block - 1] = score
        if threshold is None:
            if score <= 0:
                return blocks, None, f"the score of the last block is {score:.4f}, not above 0: nothing is pruned"
            threshold = alpha * score
        if score < threshold:
            return min(block + 1, blocks), threshold, None
    return 1, threshold, None
