"""timm's Swin restated, so that each row of a batch may bring its own forms: windows, merges of patches, the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor
from torch.nn import functional as F

from serving.engine.adapter_ops import deltas_of, layer_norm, linear, norms_of
from serving.engine.block import ServedBlock
from serving.engine.kernels import Linear
from serving.engine.narrow_maps import NarrowMaps
from serving.engine.torch_model import PlainHeads
from store.errors import InvalidSettingError
from store.records.geometry import MERGE
from store.weights.forms import Forms, Norm


class ServedSwinBlock(ServedBlock):
    """A block of a Swin on tokens (n, height * width, dim), row by row; the first of a stage merges patches before.

    The last windows of an image that they do not divide are filled up with zeros after the norm: their keys and values
    are the biases of qkv, those of a row's own task among them, and take part in attention, as in timm.
    """

    def __init__(self, block: SwinTransformerBlock, path: str, narrow: NarrowMaps, merge: ServedMerge | None) -> None:
        super().__init__(block, path, cast(tuple[int, int], block.input_resolution), narrow)
        self._merge = merge
        self._window, self._shift = block.window_size, block.shift_size
        self._padded = tuple(-(-side // window) * window for side, window in zip(self._grid, self._window, strict=True))
        bias = block.attn._get_rel_pos_bias()  # (1, heads, area, area)
        mask = block.get_attn_mask(device=bias.device, dtype=bias.dtype)  # (windows, area, area)
        self._bias = bias.detach() if mask is None else (bias + mask[:, None]).detach()

    def __call__(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        return super().__call__(x if self._merge is None else self._merge(x, tasks), tasks)

    def _arrange(self, normed: Tensor) -> Tensor:
        """Shift the tokens of each row, and fill up its last windows with zeros."""
        n, _, dim = normed.shape
        (height, width), (padded_height, padded_width) = self._grid, self._padded
        x = self._roll(normed.view(n, height, width, dim), -1)
        if self._padded != self._grid:
            x = F.pad(x, (0, 0, 0, padded_width - width, 0, padded_height - height))
        return x.flatten(1, 2)

    def _attend(self, qkv: Tensor, heads: int) -> Tensor:
        (rows, columns), (tall, wide) = self._window, self._padded
        n, down, across = len(qkv), tall // rows, wide // columns
        parts = qkv.view(n, down, rows, across, columns, 3, heads, -1).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = parts.reshape(3, n, down * across, heads, rows * columns, -1).unbind(0)
        scores = (q * self._block.attn.scale) @ k.transpose(-2, -1) + self._bias
        out = (scores.softmax(dim=-1) @ v).view(n, down, across, heads, rows, columns, -1)
        x = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(n, tall, wide, -1)
        return self._roll(x[:, : self._grid[0], : self._grid[1]], 1).flatten(1, 2)

    def _roll(self, x: Tensor, sign: int) -> Tensor:
        if not any(self._shift):
            return x
        return torch.roll(x, shifts=(sign * self._shift[0], sign * self._shift[1]), dims=(1, 2))


class ServedMerge:
    """Four neighbouring patches become one of twice the width, before the first block of a stage, as a part of it."""

    def __init__(self, merge: PatchMerging, path: str, grid: tuple[int, int]) -> None:
        self._norm, self._reduction = merge.norm, Linear.of(merge.reduction)
        self._path, self._grid = f"{path}.{MERGE}", grid

    def __call__(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        n, _, dim = x.shape
        height, width = self._grid
        patches = F.pad(x.view(n, height, width, dim), (0, 0, 0, width % 2, 0, height % 2))
        tall, wide = (height + 1) // 2, (width + 1) // 2
        joined = patches.view(n, tall, 2, wide, 2, dim).permute(0, 1, 3, 4, 2, 5).reshape(n, tall * wide, 4 * dim)
        normed = layer_norm(joined, self._norm, norms_of(tasks, f"{self._path}.norm"))
        return linear(normed, self._reduction, deltas_of(tasks, f"{self._path}.reduction"))


@dataclass(frozen=True)
class SwinEnds(PlainHeads):
    """The stem of a Swin, and what its heads take: the mean of the normed patches.

    Before the last stage the norm has no weight and no bias (`SwinTrunk` says why).
    """

    swin: SwinTransformer
    last_stage: int
    """The first depth in the last stage."""

    def stem(self, images: Tensor) -> Tensor:
        if (size := tuple(images.shape[2:])) != tuple(self.swin.patch_embed.img_size):
            expected = "{} x {}".format(*self.swin.patch_embed.img_size)
            raise InvalidSettingError(f"images of {size[0]} x {size[1]} pixels: this backbone takes {expected}")
        return cast(Tensor, self.swin.patch_embed(images).flatten(1, 2))

    def pooled(self, x: Tensor, norms: Sequence[Norm | None], *, depth: int, wide: bool) -> Tensor:  # noqa: ARG002
        if depth < self.last_stage:
            return F.layer_norm(x, x.shape[-1:], eps=self.swin.norm.eps).mean(dim=1)
        return layer_norm(x, self.swin.norm, norms).mean(dim=1)


def swin_blocks(swin: SwinTransformer, narrow: NarrowMaps) -> list[ServedBlock]:
    """Restate the blocks of all stages, one after the other."""
    served: list[ServedBlock] = []
    for stage in swin.layers:
        for index, block in enumerate(stage.blocks):
            path, merge = f"blocks.{len(served)}", None
            if not index and isinstance(stage.downsample, PatchMerging):
                merge = ServedMerge(stage.downsample, path, stage.input_resolution)
            served.append(ServedSwinBlock(block, path, narrow, merge))
    return served


def swin_ends(swin: SwinTransformer) -> SwinEnds:
    return SwinEnds(swin, sum(len(stage.blocks) for stage in swin.layers[:-1]) + 1)
