"""The order of heads and units that serves several tasks, so that each of them keeps the first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sls.data.dataset import Dataset
from sls.progress import ProgressCallback, ignore_progress
from sls.width.importance import Importance, Scores
from sls.width.of_folder import subject_of_folder
from sls.width.search import WidthConfig, magnitudes, search_width
from store.weights.backbones import Backbone
from store.weights.ordering import order_backbone

Orders = list[list[int]]


def order_by_importance(
    backbone: Backbone,
    tasks: Mapping[Path, Dataset],
    *,
    label: str,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> Backbone:
    """Order the backbone by what the tasks of these folders need (Taylor), without any by its weights (magnitude).

    The folders are of tasks on this backbone, all of full depth.
    """
    found = [
        search_width(subject_of_folder(folder, dataset, backbone, seed=seed, progress=progress), WidthConfig("taylor"))
        for folder, dataset in tasks.items()
    ]
    heads, units = common_orders(found or [magnitudes(backbone)])
    return order_backbone(backbone, heads, units, label=label)


def common_orders(importances: Sequence[Importance]) -> tuple[Orders, Orders]:
    """Order heads and units of each block by the mean of their scores, each task's over their sum in the block.

    All importances are of the same number of blocks.
    """
    heads = np.mean([_shares(one.heads) for one in importances], axis=0)
    units = np.mean([_shares(one.units) for one in importances], axis=0)
    return _descending(heads), _descending(units)


def _shares(scores: Scores) -> Scores:
    total: Scores = scores.sum(axis=1, keepdims=True)
    return scores / np.where(total > 0, total, 1)


def _descending(scores: Scores) -> Orders:
    return [[int(place) for place in np.argsort(-row, kind="stable")] for row in scores]
