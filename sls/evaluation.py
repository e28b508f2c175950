"""What a cut costs: accuracy on held-out images, of the task's own head and of closed-form ones at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from sls.adapters.model import Adapted
from sls.data.dataset import Dataset, Labels, Split, Transform
from sls.scoring.features import BlockFeatures, block_features
from sls.scoring.ridge import RidgeHead, ridge_head
from store.records.evidence import Accuracy, PruneIndex

CHUNK = 1024
"""Images whose features after every block are in memory at a time while accuracy is counted."""
MEMORY = 1 << 30
"""Bytes of features that closed-form heads are fitted on, at most."""


@dataclass(frozen=True)
class TrainFeatures:
    """One forward pass over training images in content order: what the blocks give, and the labels.

    `scored` are the rows that the criterion sees, `served` all of them: (blocks, rows, dim) float32.
    """

    scored: BlockFeatures
    served: npt.NDArray[np.float32]
    labels: Labels
    classes: int

    @property
    def scored_labels(self) -> Labels:
        return self.labels[: self.scored.scored.shape[1]]

    def head(self, depth: int) -> RidgeHead:
        """The closed-form ridge head on pool(norm(x_depth))."""
        return ridge_head(self.served[depth - 1], self.labels, self.classes)


def train_features(vit: VisionTransformer, task: Dataset, transform: Transform, *, samples: int) -> TrainFeatures:
    """Run the training images through the blocks: the first `samples` to be scored, the rest for the heads alone.

    The scored ones make a pass of their own, so that their last bits do not depend on how many follow.
    """
    order = task.train.content_order()[: max(samples, MEMORY // (8 * len(vit.blocks) * vit.embed_dim))]
    scored = block_features(vit, task.train, transform, rows=order[:samples])
    served = scored.served
    if len(order) > samples:
        rest = block_features(vit, task.train, transform, rows=order[samples:])
        served = np.concatenate([served, rest.served], axis=1)
    return TrainFeatures(scored, served, task.train.labels[order], len(task.classes))


def ridge_curve(
    vit: VisionTransformer, features: TrainFeatures, split: Split, transform: Transform
) -> tuple[Accuracy, ...]:
    """Accuracy at depth 1, 2, … of a closed-form head there, fitted on the training images; () where none is held out.

    Cheap, and made alike at every depth, which is what depths are compared by; the served head is another.
    """
    if not len(split):
        return ()
    heads = [features.head(depth) for depth in range(1, len(features.served) + 1)]
    return _count(vit, [(head.weight, head.bias) for head in heads], split, transform)


def depth_accuracies(model: Adapted, split: Split, transform: Transform) -> tuple[Accuracy, ...]:
    """Accuracy at depth 1, 2, … with the model's head, as it is, at each."""
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    return _count(model.vit, [(weight, bias)] * len(model.vit.blocks), split, transform)


def accuracy_of(model: Adapted, split: Split, transform: Transform) -> Accuracy:
    """Accuracy of head(vit(x)) in float32."""
    return depth_accuracies(model, split, transform)[-1]


@torch.inference_mode()
def _count(
    vit: VisionTransformer, heads: Sequence[tuple[Tensor, Tensor]], split: Split, transform: Transform
) -> tuple[Accuracy, ...]:
    """Accuracy of argmax(weight_i @ pool(norm(x_i)) + bias_i) for the head of every block i."""
    correct = np.zeros(len(heads), dtype=np.int64)
    for rows in np.array_split(np.arange(len(split)), -(-len(split) // CHUNK)):
        served = torch.from_numpy(block_features(vit, split, transform, rows=rows).served)
        for block, (weight, bias) in enumerate(heads):
            found = (served[block] @ weight.T + bias).argmax(dim=1).numpy()
            correct[block] += (found == split.labels[rows]).sum()
    return tuple(Accuracy(int(count), len(split)) for count in correct)


def keep_adapted(index: PruneIndex, from_block: int) -> PruneIndex:
    """Cut no deeper than where the adapters begin: below them no tuned block would be left."""
    if index.depth >= from_block:
        return index
    reason = f"scored depth {index.depth} is below block {from_block}, where the adapters begin: cut there instead"
    return replace(index, depth=from_block, reason=reason, candidates=())


def raised_cut(index: PruneIndex, depth: int, drop: float, max_drop: float) -> PruneIndex:
    """The index after the cut was walked up from where the criterion put it, as it lost `drop` points there."""
    lost = f"depth {index.depth}, as scored, loses {drop:.3g} points of validation accuracy, allowed are {max_drop:g}"
    end = "nothing is pruned" if depth == index.blocks else f"walked up to depth {depth}"
    reason = f"{index.reason}; {lost}: {end}" if index.reason else f"{lost}: {end}"
    return replace(index, depth=depth, reason=reason, candidates=())
