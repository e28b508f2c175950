"""The ends of a vision transformer on a CUDA device: the stem as one product, heads of as many classes as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from serving.engine.torch_model import VitEnds, head, stem, with_positions
from store.weights.forms import TaskWeights

STACKED = 2**26
"""Numbers that the heads of one product may have together: they are copied side by side for it."""


@dataclass(frozen=True)
class CudaEnds(VitEnds):
    """`VitEnds` in few launches; `one_by_one` keeps each head a product of its own, which no neighbour changes."""

    one_by_one: bool

    def stem(self, images: Tensor) -> Tensor:
        vit, embed = self.vit, self.vit.patch_embed
        divided = all(side % patch == 0 for side, patch in zip(images.shape[2:], embed.patch_size, strict=True))
        if vit.dynamic_img_size or not divided or images.shape[2:] != embed.img_size:
            return stem(vit, images)  # which says what it does not take
        return with_positions(vit, patches(vit, images))

    def heads(self, features: Tensor, tasks: Sequence[TaskWeights]) -> list[Tensor]:
        if self.one_by_one:
            return super().heads(features, tasks)
        logits: dict[int, Tensor] = {}
        for rows in alike(tasks):
            own = [tasks[row] for row in rows]
            if len(rows) == 1:
                logits[rows[0]] = head(features[rows[0]], own[0].head_weight, own[0].head_bias)
                continue
            inputs = torch.stack([features[row] for row in rows])[:, None]
            weights = torch.stack([task.head_weight for task in own])
            biases = torch.stack([task.head_bias for task in own])[:, None]
            made = torch.baddbmm(biases, inputs, weights.mT)[:, 0].float()
            logits.update(zip(rows, made.unbind(), strict=True))
        return [logits[row] for row in range(len(tasks))]


def patches(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the tokens (n, patches, dim) of images whose sides the patches divide.

    The patches of a plain stem do not overlap. So its convolution is a linear map of each patch's pixels, without the
    two changes of layout around cuDNN's convolution, and without TF32 in float32.
    """
    embed, (n, channels, height, width) = vit.patch_embed, images.shape
    tall, wide = embed.patch_size
    parts = images.view(n, channels, height // tall, tall, width // wide, wide).permute(0, 2, 4, 1, 3, 5)
    pixels = parts.reshape(n, -1, channels * tall * wide)
    return cast(Tensor, embed.norm(F.linear(pixels, embed.proj.weight.flatten(1), embed.proj.bias)))


def alike(tasks: Sequence[TaskWeights]) -> Iterator[list[int]]:
    """Yield the rows whose heads are of one shape, as many at a time as `STACKED` allows."""
    groups: dict[torch.Size, list[int]] = {}
    for row, task in enumerate(tasks):
        groups.setdefault(task.head_weight.shape, []).append(row)
    for shape, rows in groups.items():
        most = max(1, STACKED // shape.numel())
        yield from (rows[start : start + most] for start in range(0, len(rows), most))
