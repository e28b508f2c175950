"""How important each head, MLP unit and patch of every block is, and which are kept at a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from store.errors import InvalidSettingError
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex, mask_of

Scores = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenScores:
    """Scores of patches (blocks, patches), of `rows` x `columns` in an image, after `prefix` other tokens.

    `attention_cost` is the part of a head's cost that grows with the square of the tokens.
    """

    scores: Scores
    rows: int
    columns: int
    prefix: int
    attention_cost: float

    def at(self, share: float) -> TokenIndex:
        """Return which patches stay: this share over all blocks, the best of the last block among them.

        ViT-Slim's one global sort, of scores that are nested: a patch that a block keeps, all blocks before it keep,
        so it counts there as much as in the best of its later blocks. Equal ones are kept from the first block on.
        """
        check_share(share)
        nested = np.maximum.accumulate(self.scores[::-1])[::-1]
        nested[:, self.scores[-1].argmax()] = np.inf
        kept = np.zeros(nested.size, dtype=bool)
        kept[np.argsort(-nested.ravel(), kind="stable")[: max(len(nested), round(share * nested.size))]] = True
        masks = [mask_of(np.flatnonzero(row).tolist()) for row in kept.reshape(nested.shape)]
        return TokenIndex.of(masks, rows=self.rows, columns=self.columns)


@dataclass(frozen=True)
class Importance:
    """Scores of heads (blocks, heads) and units (blocks, units), the higher the more important.

    `joint`: one threshold for both kinds, as in Network Slimming; else one for each, as in ViT-Slim. `head_cost` is
    how many units take as many operations as one head. `nested`: the backbone is ordered by importance, so that a
    block keeps its first heads and units, as many as the scores say. `tokens` are there where they were asked for.
    Units stay or go in groups of `unit_group` neighbours, of which a block's last may be smaller, by their mean score.
    """

    heads: Scores
    units: Scores
    joint: bool
    head_cost: float
    nested: bool = False
    tokens: TokenScores | None = None
    unit_group: int = 1

    def at(self, budget: float) -> WidthIndex:
        """Return what is kept: about `budget` of the operations, and at least one head and group of each block."""
        check_budget(budget)
        sizes, grouped = self._groups()
        if self.joint:
            heads, groups = self._jointly(budget, sizes, grouped)
        else:
            heads, groups = (_highest(scores, budget) for scores in (self.heads, grouped))
        units = groups.repeat(sizes, axis=1)
        if self.nested:
            heads, units = _first_ones(heads), _first_ones(units)
        masks = [
            (mask_of(np.flatnonzero(h).tolist()), mask_of(np.flatnonzero(u).tolist()))
            for h, u in zip(heads, units, strict=True)
        ]
        return WidthIndex.of(masks, heads=self.heads.shape[1], units=self.units.shape[1])

    def first(self, blocks: int) -> Importance:
        """Return the importance within the first blocks alone."""
        tokens = self.tokens and replace(self.tokens, scores=self.tokens.scores[:blocks])
        return replace(self, heads=self.heads[:blocks], units=self.units[:blocks], tokens=tokens)

    def tokens_at(self, share: float | None, blocks: int) -> TokenIndex | None:
        """Return which patches the first blocks keep; None where they keep all."""
        if share is None or self.tokens is None:
            return None
        index = replace(self.tokens, scores=self.tokens.scores[:blocks]).at(share)
        return index if index.steps else None

    def share(self, width: WidthIndex, tokens: TokenIndex | None) -> float:
        """Return the share of the operations of all its blocks that the two keep, those above the width left out."""
        of_blocks = width.blocks / len(self.heads)
        if tokens is None or self.tokens is None:
            return flops_share(width, self.head_cost) * of_blocks
        prefix, square = self.tokens.prefix, self.tokens.attention_cost
        there = (np.array(tokens.patches_kept) + prefix) / (tokens.patches + prefix)
        kept = there * (np.array(width.heads_kept) * (self.head_cost - square + square * there) + width.units_kept)
        return float(kept.mean()) / (width.heads * self.head_cost + width.units) * of_blocks

    def _groups(self) -> tuple[npt.NDArray[np.intp], Scores]:
        """Return how many units each group of a block has, and the mean scores (blocks, groups)."""
        units = self.units.shape[1]
        check_unit_group(self.unit_group, units)
        starts = np.arange(0, units, self.unit_group)
        sizes = np.diff(starts, append=units)
        return sizes, np.add.reduceat(self.units, starts, axis=1) / sizes

    def _jointly(self, budget: float, sizes: npt.NDArray[np.intp], grouped: Scores) -> tuple[Flags, Flags]:
        """Keep the best of both kinds while their operations are within the budget."""
        scores = np.concatenate([self.heads.ravel(), grouped.ravel()])
        costs = np.concatenate([np.full(self.heads.size, self.head_cost), np.tile(sizes, len(grouped))])
        order = np.argsort(-scores, kind="stable")
        kept = np.zeros(len(scores), dtype=bool)
        kept[order[np.cumsum(costs[order]) <= budget * costs.sum() + 1e-9]] = True
        heads = kept[: self.heads.size].reshape(self.heads.shape)
        groups = kept[self.heads.size :].reshape(grouped.shape)
        return _with_best(heads, self.heads), _with_best(groups, grouped)


def check_budget(budget: float) -> None:
    if type(budget) not in (int, float) or not 0 < budget <= 1:
        raise InvalidSettingError(f"budget {budget!r}: give a share of heads and units, above 0 and at most 1")


def check_unit_group(group: int, units: int) -> None:
    if group > units:
        raise InvalidSettingError(f"groups of {group} units: a block has {units}; give smaller groups")


def check_share(share: float) -> None:
    if type(share) not in (int, float) or not 0 < share <= 1:
        raise InvalidSettingError(f"tokens {share!r}: give a share of the patches, above 0 and at most 1")


def flops_share(width: WidthIndex, head_cost: float) -> float:
    """Return the share of the operations of its blocks that an index keeps."""
    kept = sum(width.heads_kept) * head_cost + sum(width.units_kept)
    return kept / (width.blocks * (width.heads * head_cost + width.units))


def _highest(scores: Scores, budget: float) -> Flags:
    """Keep the highest over all blocks: n - int((1 - budget) n) of n, equal ones in the order of blocks."""
    count = scores.size - int((1 - budget) * scores.size + 1e-9)
    kept = np.zeros(scores.size, dtype=bool)
    kept[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return _with_best(kept.reshape(scores.shape), scores)


def _with_best(kept: Flags, scores: Scores) -> Flags:
    """Add the best of each block that would be empty."""
    empty = ~kept.any(axis=1)
    kept[empty, scores[empty].argmax(axis=1)] = True
    return kept


def _first_ones(kept: Flags) -> Flags:
    counts = kept.sum(axis=1, keepdims=True)
    first: Flags = np.arange(kept.shape[1])[None] < counts
    return first
