"""Look into a task's folder: where it would be cut, and the features that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sls.features import BlockFeatures, block_features
from sls.folder import read_folder
from sls.prune import ScoreSettings, index_of
from sls.task import ImageTask, Labels
from sls.tune import Report
from store.backbones import Backbone
from store.evidence import PruneIndex
from store.images import make_transform


@dataclass(frozen=True)
class Look:
    """A decision, with the features of (blocks, n, dim) and the n labels that it was taken from."""

    index: PruneIndex
    features: BlockFeatures
    labels: Labels


def look_at(folder: Path, task: ImageTask, backbone: Backbone, settings: ScoreSettings, report: Report) -> Look:
    """Decide the depth of a task that is tuned already; its folder stays as it is.

    The top is the folder's own last block: one that is cut already is scored from its depth.
    """
    rows = task.train.content_order()[: settings.samples]
    labels = task.train.labels[rows]
    transform = make_transform(backbone.record.id.preprocessing)
    features = block_features(read_folder(folder, backbone).vit, task.train, transform, rows=rows)
    return Look(index_of(features, labels, settings, report), features, labels)
