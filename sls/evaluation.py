"""What a cut costs: accuracy on held-out images, with the task's own head and with closed-form heads at every depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sls.adapters.model import AdaptedModel
from sls.data.dataset import Dataset, Labels, Split, Transform
from sls.scoring.calibration import Logits, calibration_error, fit_temperature
from sls.scoring.features import BlockFeatures, View, block_features, joined
from sls.scoring.ridge import RidgeHead, ridge_head
from store.records.evidence import Accuracy, PruneIndex
from store.records.measures import MOST_CONFUSED, MOST_COUNTED, Calibration, ClassCounts
from store.weights.supported import TimmModel
from store.weights.trunk import trunk_of

CHUNK = 1024
"""Images whose features after every block are in memory at once while accuracy is measured."""
MEMORY = 1 << 30
"""The greatest number of bytes of features on which closed-form heads are fitted."""


@dataclass(frozen=True)
class TrainFeatures:
    """Every block's features of training images in content order, and the labels (rows,).

    `scored` holds the first rows, which the criterion scores; `served` all rows: (blocks, rows, dim) float32.
    """

    scored: BlockFeatures
    served: View
    labels: Labels
    classes: int

    @property
    def scored_labels(self) -> Labels:
        return self.labels[: len(self.scored.scored[0])]

    def head(self, depth: int) -> RidgeHead:
        """Fit the closed-form ridge head on pool(norm(x_depth))."""
        return ridge_head(self.served[depth - 1], self.labels, self.classes)


def train_features(vit: TimmModel, dataset: Dataset, transform: Transform, *, samples: int) -> TrainFeatures:
    """Run the training images through the blocks: the first `samples` are scored, the others only fit the heads.

    The scored images have a pass of their own, so that their last bits do not depend on the number of the others.
    """
    order = dataset.train.content_order()[: max(samples, MEMORY // (8 * sum(trunk_of(vit).dims)))]
    scored = block_features(vit, dataset.train, transform, rows=order[:samples])
    served = scored.served
    if len(order) > samples:
        rest = block_features(vit, dataset.train, transform, rows=order[samples:])
        served = joined([served, rest.served])
    return TrainFeatures(scored, served, dataset.train.labels[order], len(dataset.classes))


def ridge_curve(vit: TimmModel, features: TrainFeatures, split: Split, transform: Transform) -> tuple[Accuracy, ...]:
    """Accuracy at depth 1, 2, … of a closed-form head fitted there on the training images; () for an empty split.

    The heads are cheap and fitted in the same way at every depth, which makes depths comparable. They are not served.
    """
    if not len(split):
        return ()
    heads = [features.head(depth) for depth in range(1, len(features.served) + 1)]
    return _count(vit, [(head.weight, head.bias) for head in heads], split, transform)


def depth_accuracies(model: AdaptedModel, split: Split, transform: Transform) -> tuple[Accuracy | None, ...]:
    """Accuracy at depth 1, 2, … with the model's unchanged head at each; None where the features are too few for it."""
    weight, bias = model.head.weight.detach(), model.head.bias.detach()
    fits = [dim == weight.shape[1] for dim in trunk_of(model.vit).dims]
    first = fits.index(True)  # the last stage alone has this width: it grows
    found = _count(model.vit, [(weight, bias)] * (len(fits) - first), split, transform)
    return (*(None,) * first, *found)


def accuracy_of(model: AdaptedModel, split: Split, transform: Transform) -> Accuracy:
    """Accuracy of head(vit(x)) in float32."""
    return _count(model.vit, [(model.head.weight.detach(), model.head.bias.detach())], split, transform)[0]


@torch.inference_mode()
def logits_of(model: AdaptedModel, split: Split, transform: Transform) -> Logits:
    """head(vit(x)) in float32, (n, classes)."""
    found = [np.zeros((0, model.head.out_features), dtype=np.float32)]
    for rows in _chunks(split):
        served = torch.from_numpy(block_features(model.vit, split, transform, rows=rows).served[-1])
        found.append((served @ model.head.weight.T + model.head.bias).numpy())
    return np.concatenate(found)


def accuracy_from(logits: Logits, labels: Labels) -> Accuracy:
    return Accuracy(int((logits.argmax(axis=1) == labels).sum()), len(labels))


def confusion_of(logits: Logits, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the images of class i that are answered as class j, as (classes, classes)."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def counts_of(confusion: npt.NDArray[np.int64]) -> ClassCounts:
    """Return the counts of a confusion matrix; with more than 20 classes without the matrix."""
    kept = tuple(map(tuple, confusion.tolist())) if len(confusion) <= MOST_CONFUSED else ()
    images, answered, correct = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return ClassCounts(tuple(images.tolist()), tuple(answered.tolist()), tuple(correct.tolist()), kept)


def certified_counts(confusion: npt.NDArray[np.int64]) -> ClassCounts | None:
    """Return what a certificate holds; None with more than 100 classes."""
    return counts_of(confusion) if len(confusion) <= MOST_COUNTED else None


def calibration_of(
    validation: Logits, validation_labels: Labels, test: Logits, test_labels: Labels
) -> Calibration | None:
    """Fit the temperature on validation images, measure the error on test images; None without the former."""
    if not len(validation_labels):
        return None
    temperature = fit_temperature(validation, validation_labels)
    errors = [calibration_error(test, test_labels, factor) for factor in (1.0, temperature)]
    return Calibration(temperature, len(validation_labels), *errors)


def _chunks(split: Split) -> list[npt.NDArray[np.int64]]:
    return np.array_split(np.arange(len(split)), -(-len(split) // CHUNK)) if len(split) else []


@torch.inference_mode()
def _count(
    vit: TimmModel, heads: Sequence[tuple[Tensor, Tensor]], split: Split, transform: Transform
) -> tuple[Accuracy, ...]:
    """Accuracy of argmax(weight_i @ pool(norm(x_i)) + bias_i) for the heads of as many of the last blocks."""
    correct = np.zeros(len(heads), dtype=np.int64)
    for rows in _chunks(split):
        served = block_features(vit, split, transform, rows=rows).served
        for block, (weight, bias) in enumerate(heads, len(served) - len(heads)):
            predicted = (torch.from_numpy(served[block]) @ weight.T + bias).argmax(dim=1).numpy()
            correct[block - len(served)] += (predicted == split.labels[rows]).sum()
    return tuple(Accuracy(int(count), len(split)) for count in correct)


def keep_adapted(index: PruneIndex, from_block: int) -> PruneIndex:
    """Raise a cut below `from_block`, the first adapted block, to it: no tuned block would be left."""
    if index.depth >= from_block:
        return index
    reason = f"scored depth {index.depth} is below block {from_block}, where the adapters begin: cut there instead"
    return replace(index, depth=from_block, reason=reason, candidates=())


def raised_cut(index: PruneIndex, depth: int, drop: float, max_drop: float) -> PruneIndex:
    """The index after the cut was raised from the criterion's depth, which lost `drop` points, to `depth`."""
    loss = f"depth {index.depth}, as scored, loses {drop:.3g} points of validation accuracy, allowed are {max_drop:g}"
    end = "nothing is pruned" if depth == index.blocks else f"raised to depth {depth}"
    reason = f"{index.reason}; {loss}: {end}" if index.reason else f"{loss}: {end}"
    return replace(index, depth=depth, reason=reason, candidates=())
