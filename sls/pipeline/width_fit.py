"""Prune the width of a tuned task, and tune it again at that width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sls.adapters.methods import METHODS
from sls.adapters.model import AdaptedModel, TunedModel, linear
from sls.evaluation import accuracy_of, train_features
from sls.pipeline.retune import MODES, CutModel, TrainingContext
from sls.training.recipe import TrainingConfig
from sls.width.importance import Importance
from sls.width.narrow_adapter import narrowed_model
from sls.width.search import WidthConfig, WidthSubject, search_width, token_scores
from sls.width.trial import SAMPLES, Pair, WidthPoint, choose_both, pruned
from store.errors import InvalidSettingError
from store.records.evidence import Accuracy, PruneIndex, Validation
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.weights.backbones import Backbone
from store.weights.width import kept_of

STEP = 0.1
"""By how much the budget is raised where a width loses more than is allowed."""


@dataclass(frozen=True)
class WidthFit:
    """How a tuned task is pruned: `retune` and `mode` train it again, `checkpoint` names their files."""

    context: TrainingContext
    full: TunedModel
    tune: TrainingConfig
    retune: TrainingConfig
    mode: str
    width: WidthConfig
    checkpoint: Callable[[str], Path]


@dataclass(frozen=True)
class NarrowTask:
    """A task pruned and tuned again: its index, its accuracies, and that on the test images before it was tuned again.

    `validation` is None where there are no validation images, `tokens` where all patches stay.
    """

    index: PruneIndex
    width: WidthIndex
    tokens: TokenIndex | None
    tuned: TunedModel
    share: float
    test: Accuracy
    before: Accuracy
    validation: Accuracy | None


def search(run: WidthFit) -> Importance:
    """Score heads, units and patches, or read the scores of an interrupted run."""
    path = run.checkpoint("importance").with_suffix(".npz")
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            flags = bool(saved["joint"]), float(saved["head_cost"]), bool(saved["nested"])
            tokens = token_scores(run.context.backbone, saved["tokens"]) if "tokens" in saved else None
            return Importance(saved["heads"], saved["units"], *flags, tokens, run.width.unit_group)
    importance = search_width(subject_of(run), run.width)
    partial = path.with_name("importance-partial.npz")
    saved = {**vars(importance), "tokens": importance.tokens.scores} if importance.tokens else vars(importance)
    np.savez(partial, **{name: value for name, value in saved.items() if value is not None})
    partial.replace(path)
    return importance


def subject_of(run: WidthFit) -> WidthSubject:
    context = run.context
    model = partial(adapted, run.full, context.backbone)
    return WidthSubject(context.dataset, context.backbone, model, run.tune, context.transform, context.progress)


def adapted(tuned: TunedModel, backbone: Backbone) -> AdaptedModel:
    """Build the model of a tuned adapter on the backbone, whose width it has; the adapter requires grad."""
    vit = METHODS[tuned.method].wrap(backbone, tuned, torch.float32).vit
    return AdaptedModel(vit.eval(), linear(tuned.weight, tuned.bias))


def prune_within(
    run: WidthFit, importance: Importance, reference: Accuracy | None, max_drop: float | None
) -> NarrowTask:
    """Prune to the budget, or to the first one above it, by tenths, that loses at most `max_drop` points.

    The share of patches that stay is raised with it.
    """
    budget, tokens, lost = run.width.budget, run.width.tokens, 0.0
    while True:
        made = prune(run, importance, budget, tokens)
        if max_drop is None or reference is None or made.validation is None:
            return made
        validation = Validation(reference, made.validation)
        if validation.keeps(max_drop) or (budget == 1 and tokens in (None, 1)):
            break
        lost = lost or validation.drop
        budget, tokens = _raised(budget), None if tokens is None else _raised(tokens)
    if (budget, tokens) == (run.width.budget, run.width.tokens):
        return made
    asked = f"budget {run.width.budget:g}" + ("" if tokens is None else f" with {run.width.tokens:g} of the patches")
    loss = f"{asked} loses {lost:.3g} points of validation accuracy, allowed are {max_drop:g}"
    raised = f"raised to {budget:g}" + ("" if tokens is None else f" with {tokens:g}")
    end = "nothing is pruned" if budget == 1 and tokens in (None, 1) else raised
    return replace(made, index=replace(made.index, reason=f"{loss}: {end}"))


def _raised(share: float) -> float:
    return min(1.0, round(share + STEP, 6))


def prune(run: WidthFit, importance: Importance, budget: float, tokens: float | None = None) -> NarrowTask:
    """Keep what the budget and this share of the patches allow, and tune again; where that is all, nothing changes."""
    pairs: list[Pair] = []
    if run.width.with_depth and budget < 1:
        pairs = choose_both(subject_of(run), importance, budget, tokens)
    width = pairs[0].width if pairs else importance.at(budget)
    left = importance.tokens_at(tokens, width.blocks)
    # what the cache has of frozen blocks is of the whole ones
    context = replace(run.context, backbone=run.context.backbone.narrow(width, left), cache=None)
    start = narrowed_model(run.full, width)
    name = f"width-{budget:g}" if tokens is None else f"width-{budget:g}-{tokens:g}"
    tuned = run.full if budget == 1 and left is None else _tuned_again(run, context, start, name)
    model, held_out = adapted(tuned, context.backbone), context.dataset.validation
    return NarrowTask(
        index=replace(_index(run, width, pairs), tokens=left),
        width=width,
        tokens=left,
        tuned=tuned,
        share=importance.share(width, left),
        test=accuracy_of(model, context.dataset.test, context.transform),
        before=accuracy_of(pruned(subject_of(run), width, left), context.dataset.test, context.transform),
        validation=accuracy_of(model, held_out, context.transform) if len(held_out) else None,
    )


def budget_points(run: WidthFit, importance: Importance, budgets: Sequence[float]) -> tuple[WidthPoint, ...]:
    """Prune to each budget and tune again there; nothing is written but what an interrupted run goes on from."""
    made = {budget: prune(run, importance, budget, run.width.tokens) for budget in budgets}
    return tuple(WidthPoint(budget, one.width, one.share, one.validation, one.tokens) for budget, one in made.items())


def _tuned_again(run: WidthFit, context: TrainingContext, start: TunedModel, name: str) -> TunedModel:
    if run.mode in ("head", "none") and not start.adapter:
        raise InvalidSettingError(
            f"method {start.method!r} shares tensors between widths, so it is trained again: choose another retune mode"
        )
    vit = adapted(start, context.backbone).vit
    features = train_features(vit, context.dataset, context.transform, samples=SAMPLES)
    cut = CutModel(start, start.depth, run.retune, features, context)
    return MODES[run.mode](cut, run.checkpoint(name))


def _index(run: WidthFit, width: WidthIndex, pairs: list[Pair]) -> PruneIndex:
    blocks = run.full.depth
    accuracies = {pair.width.blocks: pair.accuracy.value for pair in pairs}
    return PruneIndex(
        depth=width.blocks,
        blocks=blocks,
        criterion=run.width.criterion,
        scores=tuple(accuracies.get(depth) for depth in range(1, blocks + 1)) if pairs else (),
        seed=run.tune.seed,
        samples=len(run.context.dataset.train),
        width=width if kept_of(width) else None,
    )
