"""Five ways to go on with a task that was cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from sls.adapters.model import Tuned, block_of
from sls.data.dataset import Dataset, Transform
from sls.evaluation import TrainFeatures
from sls.progress import ProgressCallback
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.weights.backbones import Backbone

CONSTANT_RATE = 1e-5


@dataclass(frozen=True)
class TrainingContext:
    """A task on a backbone, and what training needs beside a recipe."""

    task: Dataset
    backbone: Backbone
    transform: Transform
    report: ProgressCallback

    def tune(self, start: Tuned, recipe: TrainingConfig, *, stage: str, checkpoint: Path | None = None) -> Tuned:
        return tune(
            self.task,
            self.backbone,
            start,
            recipe,
            transform=self.transform,
            stage=stage,
            report=self.report,
            checkpoint=checkpoint,
        )


@dataclass(frozen=True)
class CutModel:
    """A task that was tuned at full depth and is cut: `features` are those of the tuned blocks."""

    full: Tuned
    depth: int
    recipe: TrainingConfig
    features: TrainFeatures
    bench: TrainingContext


def untrained(task: Dataset, backbone: Backbone, recipe: TrainingConfig, depth: int | None = None) -> Tuned:
    """Start from fresh adapters and a head of zeros, at full depth unless another is given."""
    classes, record = len(task.classes), backbone.record
    return Tuned(
        depth=depth or record.blocks,
        rank=recipe.rank,
        adapter={},
        weight=torch.zeros(classes, record.dim),
        bias=torch.zeros(classes),
        method=recipe.method,
        from_block=recipe.from_block,
        scale=recipe.scale,
    )


def truncated(tuned: Tuned, depth: int) -> Tuned:
    """Keep the adapter of blocks 1..depth, and the head."""
    kept = {key: value for key, value in tuned.adapter.items() if block_of(key) <= depth}
    return replace(tuned, depth=depth, adapter=kept)


def constant(cut: CutModel, checkpoint: Path) -> Tuned:
    """Train on from the cut model at a rate of 1e-5 throughout: FT of the authors' pruning_train.py."""
    return _train(cut, truncated(cut.full, cut.depth), checkpoint, learning_rate=CONSTANT_RATE, schedule="constant")


def rewind(cut: CutModel, checkpoint: Path) -> Tuned:
    """Train on from the cut model, the recipe's rate warmed up and annealed again: the authors' CLR.

    After Renda, Frankle and Carbin (Comparing rewinding and fine-tuning, ICLR 2020): learning rate rewinding.
    """
    return _train(cut, truncated(cut.full, cut.depth), checkpoint, schedule="cosine")


def scratch(cut: CutModel, checkpoint: Path) -> Tuned:
    """Train fresh adapters and a fresh head at the depth: the authors' TFS. Nothing of the full model is in it."""
    return _train(
        cut, untrained(cut.bench.task, cut.bench.backbone, cut.recipe, cut.depth), checkpoint, schedule="cosine"
    )


def head(cut: CutModel, _: Path) -> Tuned:
    """Leave the adapter as it is, and put the closed-form ridge head on the cut model's features."""
    found = cut.features.head(cut.depth)
    return replace(truncated(cut.full, cut.depth), weight=found.weight, bias=found.bias)


def none(cut: CutModel, _: Path) -> Tuned:
    """Leave the cut model as it is."""
    return truncated(cut.full, cut.depth)


def _train(cut: CutModel, start: Tuned, checkpoint: Path, **changes: object) -> Tuned:
    recipe = replace(cut.recipe, **changes)  # type: ignore[arg-type]  # two fields of the right types, just above
    return cut.bench.tune(start, recipe, stage="retune", checkpoint=checkpoint)


MODES: Mapping[str, Callable[[CutModel, Path], Tuned]] = MappingProxyType(
    {"constant": constant, "rewind": rewind, "scratch": scratch, "head": head, "none": none}
)
