"""What a width costs before anything is trained again: one search, every budget, and depth beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sls.adapters.model import AdaptedModel, linear
from sls.evaluation import accuracy_of, train_features
from sls.progress import Progress
from sls.training.soft_masks import insert_width
from sls.width.importance import Importance
from sls.width.search import WidthSubject
from store.errors import DataError
from store.records.evidence import Accuracy
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

SAMPLES = 400
STAGE = "pairs"


@dataclass(frozen=True)
class WidthPoint:
    """A budget, what is kept there, the share of the operations, and the validation accuracy; None without images.

    `tokens` is None where all patches stay.
    """

    budget: float
    width: WidthIndex
    flops: float
    accuracy: Accuracy | None
    tokens: TokenIndex | None = None


@dataclass(frozen=True)
class Pair:
    """A width index, whose blocks are the depth, and the validation accuracy of a closed-form head there."""

    width: WidthIndex
    accuracy: Accuracy
    tokens: TokenIndex | None = None


def width_curve(
    subject: WidthSubject, importance: Importance, budgets: Sequence[float], tokens: float | None = None
) -> tuple[WidthPoint, ...]:
    """Take heads, units and patches out of the tuned model at each budget, and measure it with its own head."""
    widths = [importance.at(budget) for budget in budgets]
    held_out = subject.dataset.validation
    left = importance.tokens_at(tokens, len(importance.heads))
    return tuple(
        WidthPoint(
            budget,
            width,
            importance.share(width, left),
            accuracy_of(pruned(subject, width, left), held_out, subject.transform) if len(held_out) else None,
            left,
        )
        for budget, width in zip(budgets, widths, strict=True)
    )


def choose_both(
    subject: WidthSubject, importance: Importance, budget: float, tokens: float | None = None
) -> list[Pair]:
    """Score the pairs (depth c, share b) with c b = budget N, the best first; of equal ones the deepest.

    `tokens` is the share of patches that stay at each depth. Nothing is trained: each pair keeps the tuned adapter, and
    a ridge head is fitted on features of training images.
    """
    if not len(subject.dataset.validation):
        raise DataError(f"{subject.dataset.name}: depth and width together need validation images: give some")
    blocks, began = len(importance.heads), time.monotonic()
    depths = range(blocks, max(1, math.ceil(budget * blocks - 1e-9)) - 1, -1)
    pairs = []
    for done, depth in enumerate(depths, 1):
        width = importance.first(depth).at(min(1.0, budget * blocks / depth))
        index = importance.tokens_at(tokens, depth)
        pairs.append(Pair(width, _with_ridge_head(subject, width, index), index))
        left = (time.monotonic() - began) / done * (len(depths) - done)
        subject.progress(Progress(STAGE, done, len(depths), left, accuracy=pairs[-1].accuracy.value))
    return sorted(pairs, key=lambda pair: -pair.accuracy.value)


def pruned(subject: WidthSubject, width: WidthIndex, tokens: TokenIndex | None = None) -> AdaptedModel:
    """Build the task's first blocks with these heads, units and patches alone, the adapter and head unchanged."""
    model = subject.model()
    model.vit.blocks = model.vit.blocks[: width.blocks]
    insert_width(model.vit.eval().requires_grad_(False), width, tokens)
    return model


def _with_ridge_head(subject: WidthSubject, width: WidthIndex, tokens: TokenIndex | None) -> Accuracy:
    model = pruned(subject, width, tokens)
    head = train_features(model.vit, subject.dataset, subject.transform, samples=SAMPLES).head(width.blocks)
    return accuracy_of(
        replace(model, head=linear(head.weight, head.bias)), subject.dataset.validation, subject.transform
    )
