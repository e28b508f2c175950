"""The pooled feature after every block, from one forward pass for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sls.data.dataset import Split, Transform
from store.weights.supported import TimmModel
from store.weights.trunk import trunk_of

BATCH = 64

View = npt.NDArray[np.float32] | Sequence[npt.NDArray[np.float32]]
"""Features of every block, (samples, dim) float32 each; one array where all blocks are equally wide."""


@dataclass(frozen=True)
class BlockFeatures:
    """Two views of x_i, the output of block i, as (blocks, samples, dim) float32; in a Swin dim grows with the stages.

    `scored`: pool(x_i), which the paper scores. `served`: pool(norm(x_i)), which the head sees at depth i.
    """

    scored: View
    served: View


@torch.inference_mode()
def block_features(
    vit: TimmModel, split: Split, transform: Transform, *, rows: npt.NDArray[np.int64] | None = None
) -> BlockFeatures:
    """x_i = L_i(x_{i-1}), i = 1..blocks, for the images of `rows` in that order; by default for all images."""
    vit.eval()
    order = np.arange(len(split)) if rows is None else rows
    if not len(order):
        empty = _view([np.zeros((0, dim), dtype=np.float32) for dim in trunk_of(vit).dims])
        return BlockFeatures(empty, empty)
    batches = np.array_split(order, -(-len(order) // BATCH))
    scored, served = zip(*(_forward(vit, split.inputs(batch, transform)) for batch in batches), strict=True)
    return BlockFeatures(joined(scored), joined(served))


def joined(views: Sequence[View]) -> View:
    """Return the rows of all views, one after the other."""
    return _view([np.concatenate(blocks) for blocks in zip(*views, strict=True)])


def _view(blocks: Sequence[npt.NDArray[np.float32]]) -> View:
    return np.stack(blocks) if len({block.shape[1] for block in blocks}) == 1 else tuple(blocks)


def _forward(vit: TimmModel, inputs: torch.Tensor) -> tuple[View, View]:
    trunk = trunk_of(vit)
    x, scored, served = trunk.stem(inputs), [], []
    for depth, block in enumerate(trunk.blocks, 1):
        x = block(x)
        scored.append(trunk.scored(x, depth).float().numpy())
        served.append(trunk.served(x, depth).float().numpy())
    return scored, served
