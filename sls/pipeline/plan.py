"""What a fit would do, without doing it: the images, the steps, about how long, and the bytes of the result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from sls.adapters.model import build_vit
from sls.adapters.task_folder import DTYPES
from sls.data.dataset import Dataset, Split, Transform
from sls.pipeline.preflight import trainable_parameters
from sls.pipeline.retune import untrained
from sls.progress import Progress
from sls.scoring.features import block_features
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform
from store.weights.supported import TimmModel

TIMED_BATCHES, TIMED_IMAGES = 3, 32


@dataclass(frozen=True)
class FitPlan:
    """`images` counts by split and class; `steps` are the optimizer's, at most; `seconds` leave out the criterion.

    `seconds` are estimated from a few batches on this machine, all blocks for each; `nbytes` is the adapter and the
    head in the folder at full depth, the most that the cut one has.
    """

    images: Mapping[str, Mapping[str, int]]
    steps: Mapping[str, int]
    seconds: float
    nbytes: int


def plan_fit(
    dataset: Dataset, backbone: Backbone, stages: Mapping[str, TrainingConfig], *, dtype: str = "float16"
) -> FitPlan:
    """Plan the trainings of the stages, such as `tune` and `retune`; nothing is written."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    transform = make_transform(backbone.record.id.preprocessing)
    first = next(iter(stages.values()))
    steps = {stage: config.epochs * math.ceil(len(dataset.train) / config.batch) for stage, config in stages.items()}
    a_step = _seconds_of_step(dataset, backbone, first, transform)
    an_image = _seconds_of_features(build_vit(backbone, backbone.record.blocks).eval(), dataset.train, transform)
    passes = sum(config.epochs for config in stages.values()) * len(dataset.validation) + len(dataset.train)
    seconds = sum(steps.values()) * a_step + (passes + 2 * len(dataset.test)) * an_image
    images = {part: _by_class(split, dataset.classes) for part, split in splits.items()}
    return FitPlan(images, steps, seconds, DTYPES[dtype].itemsize * trainable_parameters(dataset, backbone, first))


def _by_class(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(split.labels, minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=True))


def _seconds_of_step(dataset: Dataset, backbone: Backbone, config: TrainingConfig, transform: Transform) -> float:
    """Time the second of two epochs over a few batches: the first one warms up."""
    count = min(len(dataset.train), TIMED_BATCHES * config.batch)
    few = Split(dataset.train.images[:count], np.arange(count, dtype=np.int64) % 2)  # what they are takes no time
    timed = Dataset(dataset.name, ("one", "other"), few, Split((), np.empty(0, np.int64)), few)
    ends: list[float] = []

    def note(_: Progress) -> None:
        ends.append(time.monotonic())

    tune(
        timed,
        backbone,
        untrained(timed, backbone, config),
        replace(config, epochs=2, patience=0),
        transform=transform,
        stage="plan",
        progress=note,
    )
    return (ends[1] - ends[0]) / math.ceil(count / config.batch)


def _seconds_of_features(vit: TimmModel, split: Split, transform: Transform) -> float:
    rows = np.arange(min(len(split), TIMED_IMAGES))
    with torch.inference_mode():
        block_features(vit, split, transform, rows=rows[:1])
        began = time.monotonic()
        block_features(vit, split, transform, rows=rows)
    return (time.monotonic() - began) / len(rows)
