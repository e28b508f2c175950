"""Choose a task's depth from its blocks' features; the model is not changed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from sls.adapters.task_folder import read_folder
from sls.data.dataset import Dataset, Transform
from sls.progress import Progress, ProgressCallback, ignore_progress
from sls.scoring.criteria import CRITERIA, obstacle
from sls.scoring.cutoff import Scoring, cut_by_share, cut_by_tolerance
from sls.scoring.feature_rows import Labels
from sls.scoring.features import BlockFeatures, block_features
from sls.training.recipe import MAX_SEED, check_choice, check_real
from store.adapters.checkpoint import LABELS, LIMITS, parse_classes
from store.adapters.regular_file import read_regular
from store.errors import DataError, InvalidSettingError
from store.records.bounds import check_number
from store.records.evidence import PruneIndex
from store.weights.backbones import Backbone
from store.weights.preprocessing import make_transform
from store.weights.supported import TimmModel


@dataclass(frozen=True)
class ScoreConfig:
    """The criterion and its evidence: at most `samples` training images, the first in the order of their digests.

    `alpha` is the share for criteria of the rule "share", None the criterion's default; `tolerance` is the accuracy
    (0..1) that criteria of the rule "tolerance" may give up. `every` also scores the blocks that the rule does not
    need.
    """

    alpha: float | None = None
    criterion: str = "sls"
    samples: int = 400
    seed: int = 0
    every: bool = False
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        check_number("samples", self.samples, least=1)
        check_number("seed", self.seed, most=MAX_SEED)
        check_real("tolerance", self.tolerance)
        if self.alpha is not None:
            check_real("alpha", self.alpha)
        check_choice("criterion", self.criterion, CRITERIA)
        if not 0 <= (self.alpha or 0) <= 1:
            raise InvalidSettingError(f"alpha {self.alpha}: give a share, 0..1")
        if not 0 <= self.tolerance < 1:
            raise InvalidSettingError(f"tolerance {self.tolerance}: give a share of accuracy, 0 <= tolerance < 1")


def depth_from_features(
    features: BlockFeatures, labels: Labels, config: ScoreConfig, progress: ProgressCallback = ignore_progress
) -> PruneIndex:
    """Choose the depth from features (blocks, n, dim) and labels (n,); the order of the rows changes nothing.

    `progress` is called with stage "score" after each scored block. Raises `DataError` unless there is one label for
    each row.
    """
    criterion = CRITERIA[config.criterion]
    view = {"scored": features.scored, "served": features.served}[criterion.view]
    reasons = (obstacle(block, labels, least=criterion.least) for block in view)
    undefined = next(filter(None, reasons), None)
    blocks, began = len(view), time.monotonic()

    def score_at(block: int) -> float:
        score = criterion.score(view[block - 1], labels, seed=config.seed)
        done = blocks - block + 1
        left = (time.monotonic() - began) / done * (blocks - done)
        progress(Progress("score", done, blocks, left, score=score))
        return score

    scoring = Scoring(
        score_at, blocks, criterion.name, len(labels), seed=config.seed, noise=criterion.noise, undefined=undefined
    )
    if criterion.alpha is not None:
        alpha = criterion.alpha if config.alpha is None else config.alpha
        return cut_by_share(scoring, alpha, every=config.every)
    return cut_by_tolerance(scoring, config.tolerance)


@dataclass(frozen=True)
class DepthChoice:
    """A chosen depth, with the features (blocks, n, dim) and the labels (n,) from which it was chosen."""

    index: PruneIndex
    features: BlockFeatures
    labels: Labels


def choose_depth(
    folder: str | Path,
    dataset: Dataset,
    backbone: Backbone,
    *,
    config: ScoreConfig = ScoreConfig(),
    progress: ProgressCallback = ignore_progress,
) -> DepthChoice:
    """Choose the depth of a tuned task in `folder`, which is not changed.

    Scoring starts at the folder's last block: the blocks above an earlier cut are gone. Raises `DataError` where the
    dataset's class names are not the folder's.
    """
    check_classes(Path(folder), dataset)
    transform = make_transform(backbone.record.id.preprocessing)
    return choose_depth_of_model(read_folder(Path(folder), backbone).vit, dataset, config, transform, progress)


def check_classes(folder: Path, dataset: Dataset) -> None:
    classes = parse_classes(read_regular(folder / LABELS, limit=LIMITS[LABELS])) if (folder / LABELS).exists() else ()
    if classes and set(classes) != set(dataset.classes):
        extra, missing = sorted(set(dataset.classes) - set(classes)), sorted(set(classes) - set(dataset.classes))
        only = f"{extra[0]!r} is only in the data" if extra else f"{missing[0]!r} is only in the task"
        raise DataError(
            f"{dataset.name} has {len(dataset.classes)} classes, {folder} has {len(classes)}, and {only}: "
            "give the data that the task was tuned for"
        )


def choose_depth_of_model(
    vit: TimmModel, dataset: Dataset, config: ScoreConfig, transform: Transform, progress: ProgressCallback
) -> DepthChoice:
    """Choose the depth of a model from the first training images, in the order of their digests."""
    rows = dataset.train.content_order()[: config.samples]
    labels = dataset.train.labels[rows]
    features = block_features(vit, dataset.train, transform, rows=rows)
    return DepthChoice(depth_from_features(features, labels, config, progress), features, labels)
