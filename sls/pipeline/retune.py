"""Five ways to train a model after its cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from sls.adapters.model import TunedModel, block_of
from sls.data.dataset import Dataset, Transform
from sls.evaluation import TrainFeatures
from sls.progress import ProgressCallback
from sls.training.feature_cache import FeatureCache
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.records.backbone import BackboneRecord
from store.weights.backbones import Backbone

CONSTANT_RATE = 1e-5


@dataclass(frozen=True)
class TrainingContext:
    """What training needs beside a config: dataset, backbone, transform, the callback for progress, and a cache."""

    dataset: Dataset
    backbone: Backbone
    transform: Transform
    progress: ProgressCallback
    cache: FeatureCache | None = None

    def tune(
        self, start: TunedModel, config: TrainingConfig, *, stage: str, checkpoint: Path | None = None
    ) -> TunedModel:
        return tune(
            self.dataset,
            self.backbone,
            start,
            config,
            transform=self.transform,
            stage=stage,
            progress=self.progress,
            checkpoint=checkpoint,
            cache=self.cache,
        )


@dataclass(frozen=True)
class CutModel:
    """A model tuned at full depth, the depth to cut it to, and the training features of its blocks."""

    full: TunedModel
    depth: int
    config: TrainingConfig
    features: TrainFeatures
    context: TrainingContext

    @property
    def start(self) -> TunedModel:
        """The adapter of the blocks that stay, and the head."""
        return truncated(self.full, self.depth, self.context.backbone.record)


def untrained(dataset: Dataset, backbone: Backbone, config: TrainingConfig, depth: int | None = None) -> TunedModel:
    """Return fresh adapters and a zero head, at full depth by default."""
    classes, record = len(dataset.classes), backbone.record
    depth = depth or record.blocks
    return TunedModel(
        depth=depth,
        rank=config.rank,
        adapter={},
        weight=torch.zeros(classes, record.width_at(depth)),
        bias=torch.zeros(classes),
        method=config.method,
        from_block=config.from_block,
        scale=config.scale,
    )


def truncated(tuned: TunedModel, depth: int, record: BackboneRecord | None = None) -> TunedModel:
    """Return the adapter of blocks 1..depth and the head; on a backbone of stages, whose record is then needed, a zero
    head where the features there are fewer.
    """
    geometry = None if record is None else record.geometry
    kept = {key: value for key, value in tuned.adapter.items() if block_of(key, geometry) <= depth}
    weight, bias = tuned.weight, tuned.bias
    if record is not None and weight.shape[1] > (width := record.width_at(depth)):
        weight, bias = weight.new_zeros(len(weight), width), torch.zeros_like(bias)
    return replace(tuned, depth=depth, adapter=kept, weight=weight, bias=bias)


def constant(cut: CutModel, checkpoint: Path) -> TunedModel:
    """Continue from the cut model at a constant rate of 1e-5: FT in the authors' pruning_train.py."""
    return _train(cut, cut.start, checkpoint, learning_rate=CONSTANT_RATE, schedule="constant")


def rewind(cut: CutModel, checkpoint: Path) -> TunedModel:
    """Continue from the cut model, with the configured rate warmed up and annealed again: the authors' CLR.

    It is the learning rate rewinding of Renda, Frankle and Carbin (Comparing rewinding and fine-tuning, ICLR 2020).
    """
    return _train(cut, cut.start, checkpoint, schedule="cosine")


def scratch(cut: CutModel, checkpoint: Path) -> TunedModel:
    """Train fresh adapters and a fresh head at the depth, without the full model: the authors' TFS."""
    start = untrained(cut.context.dataset, cut.context.backbone, cut.config, cut.depth)
    return _train(cut, start, checkpoint, schedule="cosine")


def head(cut: CutModel, _: Path) -> TunedModel:
    """Keep the adapter, and fit the closed-form ridge head on the cut model's features."""
    ridge = cut.features.head(cut.depth)
    return replace(cut.start, weight=ridge.weight, bias=ridge.bias)


def none(cut: CutModel, _: Path) -> TunedModel:
    """Return the cut model without training."""
    return cut.start


def _train(cut: CutModel, start: TunedModel, checkpoint: Path, **changes: object) -> TunedModel:
    config = replace(cut.config, **changes)  # type: ignore[arg-type]  # two fields of the right types, just above
    return cut.context.tune(start, config, stage="retune", checkpoint=checkpoint)


MODES: Mapping[str, Callable[[CutModel, Path], TunedModel]] = MappingProxyType(
    {"constant": constant, "rewind": rewind, "scratch": scratch, "head": head, "none": none}
)
