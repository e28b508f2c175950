"""The pooled feature after every block, from one forward pass for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer

from sls.data.dataset import Split, Transform

BATCH = 64


@dataclass(frozen=True)
class BlockFeatures:
    """Two views of x_i, the output of block i, as (blocks, samples, dim) float32.

    `scored`: pool(x_i), which the paper scores. `served`: pool(norm(x_i)), which the head sees at depth i.
    A distilled model pools the mean of its two tokens, as timm does at inference. A learned pooling (map, prr) was
    learned on normed tokens, so both views are then taken after the norm.
    """

    scored: npt.NDArray[np.float32]
    served: npt.NDArray[np.float32]


@torch.inference_mode()
def block_features(
    vit: VisionTransformer, split: Split, transform: Transform, *, rows: npt.NDArray[np.int64] | None = None
) -> BlockFeatures:
    """x_i = L_i(x_{i-1}), i = 1..blocks, for the images of `rows` in that order; by default for all images."""
    vit.eval()
    order = np.arange(len(split)) if rows is None else rows
    if not len(order):
        empty = np.zeros((len(vit.blocks), 0, vit.embed_dim), dtype=np.float32)
        return BlockFeatures(empty, empty)
    batches = np.array_split(order, -(-len(order) // BATCH))
    views = [_forward(vit, split.inputs(batch, transform)) for batch in batches]
    return BlockFeatures(*(np.concatenate(view, axis=1) for view in zip(*views, strict=True)))


def _forward(vit: VisionTransformer, inputs: torch.Tensor) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(inputs))))
    scored, served = [], []
    for block in vit.blocks:
        x = block(x)
        normed = vit.norm(x)
        scored.append(_pool(vit, x, normed))
        served.append(vit.forward_head(normed, pre_logits=True))
    return torch.stack(scored).float().numpy(), torch.stack(served).float().numpy()


def _pool(vit: VisionTransformer, x: torch.Tensor, normed: torch.Tensor) -> torch.Tensor:
    if type(vit) is VisionTransformerDistilled:
        return cast(torch.Tensor, vit.forward_head(x, pre_logits=True))  # (class token + distillation token) / 2
    return cast(torch.Tensor, vit.pool(x if vit.attn_pool is None else normed))
