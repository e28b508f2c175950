"""Look into a task's folder: where it would be cut, and the features that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timm.models.vision_transformer import VisionTransformer

from sls.features import BlockFeatures, block_features
from sls.folder import read_folder
from sls.prune import ScoreSettings, index_of
from sls.task import ImageTask, Labels, Transform
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
    transform = make_transform(backbone.record.id.preprocessing)
    return look(read_folder(folder, backbone).vit, task, settings, transform, report)


def look(
    vit: VisionTransformer, task: ImageTask, settings: ScoreSettings, transform: Transform, report: Report
) -> Look:
    """Decide the depth from the first training images, in the order of their content."""
    rows = task.train.content_order()[: settings.samples]
    labels = task.train.labels[rows]
    features = block_features(vit, task.train, transform, rows=rows)
    return Look(index_of(features, labels, settings, report), features, labels)
