"""Score a tuned model's blocks from the top until the rule stops; the model stays as it is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sls.adapted import Adapted
from sls.cutoff import cut
from sls.features import block_features
from sls.score import CRITERIA, obstacle
from sls.task import ImageTask, Transform
from sls.tune import Progress, Report
from store.errors import InvalidSettingError
from store.evidence import PruneIndex


@dataclass(frozen=True)
class ScoreSettings:
    """The paper's rule and its evidence: `samples` training images at most, the first by content digest.

    `every` scores the blocks below the cut too, which the rule does not need.
    """

    alpha: float = 0.3
    criterion: str = "tsne-silhouette"
    samples: int = 400
    seed: int = 0
    every: bool = False

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise InvalidSettingError(f"criterion {self.criterion!r} is unknown: choose one of {', '.join(CRITERIA)}")
        if self.samples < 1 or not 0 <= self.alpha <= 1:
            raise InvalidSettingError(f"{self.samples} samples, alpha {self.alpha}: give samples >= 1, alpha in 0..1")


def score_blocks(
    model: Adapted, task: ImageTask, settings: ScoreSettings, *, transform: Transform, report: Report
) -> PruneIndex:
    """Decide the depth from the training images' features; blocks below the one that ends the walk are not scored.

    The top is the model's own last block: a folder that is cut already is scored from its depth.
    """
    rows = task.train.content_order()[: settings.samples]
    labels = task.train.labels[rows]
    features = block_features(model.vit, task.train, transform, rows=rows).scored
    blocks, began = len(features), time.monotonic()

    def score_at(block: int) -> float:
        score = CRITERIA[settings.criterion](features[block - 1], labels, seed=settings.seed)
        done = blocks - block + 1
        left = (time.monotonic() - began) / done * (blocks - done)
        report(Progress("score", done, blocks, left, score=score))
        return score

    return cut(
        score_at,
        blocks,
        settings.alpha,
        criterion=settings.criterion,
        seed=settings.seed,
        samples=len(rows),
        undefined=obstacle(features, labels),
        every=settings.every,
    )
