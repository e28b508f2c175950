"""Decide a task's depth from its blocks' features; the model stays as it is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from sls.adapters.task_folder import read_folder
from sls.data.dataset import Dataset, Transform
from sls.progress import Progress, ProgressCallback, ignore_progress
from sls.scoring.criteria import CRITERIA, obstacle
from sls.scoring.cutoff import Scoring, cut_by_share, cut_by_tolerance
from sls.scoring.feature_rows import Labels
from sls.scoring.features import BlockFeatures, block_features
from store.errors import InvalidSettingError
from store.records.evidence import PruneIndex
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform


@dataclass(frozen=True)
class ScoreConfig:
    """The rule and its evidence: `samples` training images at most, the first by content digest.

    `alpha` is the share that criteria of rule "share" cut by, None the criterion's own; `tolerance` is the
    accuracy (0..1) that those of rule "tolerance" may give up. `every` scores the blocks below the cut
    too, which the rule does not need.
    """

    alpha: float | None = None
    criterion: str = "sls"
    samples: int = 400
    seed: int = 0
    every: bool = False
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise InvalidSettingError(f"criterion {self.criterion!r} is unknown: choose one of {', '.join(CRITERIA)}")
        if self.samples < 1 or not 0 <= (self.alpha or 0) <= 1:
            raise InvalidSettingError(f"{self.samples} samples, alpha {self.alpha}: give samples >= 1, alpha in 0..1")
        if not 0 <= self.tolerance < 1:
            raise InvalidSettingError(f"tolerance {self.tolerance}: give a share of accuracy, 0 <= tolerance < 1")


def depth_from_features(
    features: BlockFeatures, labels: Labels, settings: ScoreConfig, report: ProgressCallback = lambda _: None
) -> PruneIndex:
    """Decide the depth from features of (blocks, n, dim) and n labels, whatever the order of the rows.

    A progress of stage "score" is reported for each block that is scored. Raises `DataError` for labels
    that are not one a row.
    """
    criterion = CRITERIA[settings.criterion]
    view = {"scored": features.scored, "served": features.served}[criterion.view]
    undefined = obstacle(view, labels, least=criterion.least)
    blocks, began = len(view), time.monotonic()

    def score_at(block: int) -> float:
        score = criterion.score(view[block - 1], labels, seed=settings.seed)
        done = blocks - block + 1
        left = (time.monotonic() - began) / done * (blocks - done)
        report(Progress("score", done, blocks, left, score=score))
        return score

    scoring = Scoring(
        score_at, blocks, criterion.name, len(labels), seed=settings.seed, noise=criterion.noise, undefined=undefined
    )
    if criterion.alpha is not None:
        alpha = criterion.alpha if settings.alpha is None else settings.alpha
        return cut_by_share(scoring, alpha, every=settings.every)
    return cut_by_tolerance(scoring, settings.tolerance)


@dataclass(frozen=True)
class DepthChoice:
    """A decision, with the features of (blocks, n, dim) and the n labels that it was taken from."""

    index: PruneIndex
    features: BlockFeatures
    labels: Labels


def choose_depth(
    folder: Path,
    dataset: Dataset,
    backbone: Backbone,
    *,
    config: ScoreConfig = ScoreConfig(),
    progress: ProgressCallback = ignore_progress,
) -> DepthChoice:
    """Decide the depth of a task that is tuned already; its folder stays as it is.

    The top is the folder's own last block: one that is cut already is scored from its depth.
    """
    transform = make_transform(backbone.record.id.preprocessing)
    return look(read_folder(folder, backbone).vit, dataset, config, transform, progress)


def look(
    vit: VisionTransformer, task: Dataset, settings: ScoreConfig, transform: Transform, report: ProgressCallback
) -> DepthChoice:
    """Decide the depth from the first training images, in the order of their content."""
    rows = task.train.content_order()[: settings.samples]
    labels = task.train.labels[rows]
    features = block_features(vit, task.train, transform, rows=rows)
    return DepthChoice(depth_from_features(features, labels, settings, report), features, labels)
