"""A timm model as training and scoring see it: a stem, blocks one after the other, and what a head takes at each depth.

At a depth before its last stage a Swin has no norm of its own: the last one is as wide as the last stage. There each
token is standardised without weight and bias, which loses nothing: a head takes the mean of the tokens, and a weight
and a bias before the mean are then a linear map that the head itself can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import PatchMerging, SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from store.errors import InvalidSettingError
from store.weights.supported import TimmModel

Step = Callable[[Tensor], Tensor]


class Trunk(Protocol):
    """What a plain vision transformer and a Swin have in common; their blocks may contain adapters."""

    @property
    def dims(self) -> tuple[int, ...]:
        """How wide what each block gives is."""

    @property
    def blocks(self) -> Sequence[Step]:
        """Each block, counted over all stages; the first of a stage merges patches before it runs."""

    def shape(self, depth: int) -> tuple[int, ...]:
        """Return the shape of what block `depth` gives for one image; -1 where any number of tokens may be."""

    def grid(self, path: str) -> tuple[int, int]:
        """Return how many rows and columns of patches the block at timm's path has."""

    def stem(self, images: Tensor) -> Tensor: ...
    def served(self, x: Tensor, depth: int) -> Tensor:
        """Return the features (n, dim) that a head takes after so many blocks."""

    def scored(self, x: Tensor, depth: int) -> Tensor:
        """Return the features that the paper scores, before the last norm."""


def trunk_of(model: TimmModel) -> Trunk:
    return SwinTrunk(model) if isinstance(model, SwinTransformer) else PlainTrunk(model)


@dataclass(frozen=True)
class PlainTrunk:
    """A plain vision transformer: tokens (n, tokens, dim).

    A distilled model pools the mean of its two tokens, as timm does at inference. A learned pooling (map, prr) was
    learned on normed tokens, so it is taken after the norm where it is scored, too.
    """

    vit: VisionTransformer

    @property
    def dims(self) -> tuple[int, ...]:
        return (int(self.vit.embed_dim),) * len(self.vit.blocks)

    @property
    def blocks(self) -> Sequence[Step]:
        return list(self.vit.blocks)

    def shape(self, depth: int) -> tuple[int, ...]:
        return (-1, self.dims[depth - 1])

    def grid(self, path: str) -> tuple[int, int]:  # noqa: ARG002  all blocks have the same
        return cast(tuple[int, int], self.vit.patch_embed.grid_size)

    def stem(self, images: Tensor) -> Tensor:
        vit = self.vit
        return cast(Tensor, vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))))

    def served(self, x: Tensor, depth: int) -> Tensor:  # noqa: ARG002  all depths have the same norm
        return cast(Tensor, self.vit.forward_head(self.vit.norm(x), pre_logits=True))

    def scored(self, x: Tensor, depth: int) -> Tensor:  # noqa: ARG002
        vit = self.vit
        if type(vit) is VisionTransformerDistilled:
            return cast(Tensor, vit.forward_head(x, pre_logits=True))  # (class token + distillation token) / 2
        return cast(Tensor, vit.pool(x if vit.attn_pool is None else vit.norm(x)))


@dataclass(frozen=True)
class SwinTrunk:
    """A Swin: patches (n, height, width, dim), all of which are averaged."""

    swin: SwinTransformer

    @cached_property
    def _stages(self) -> list[int]:
        """Return the stage of each block."""
        return [stage for stage, layer in enumerate(self.swin.layers) for _ in layer.blocks]

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(_width(self.swin.layers[stage]) for stage in self._stages)

    @property
    def blocks(self) -> Sequence[Step]:
        return [step for layer in self.swin.layers for step in _steps(layer)]

    def shape(self, depth: int) -> tuple[int, ...]:
        return (*self.swin.layers[self._stages[depth - 1]].output_resolution, self.dims[depth - 1])

    def grid(self, path: str) -> tuple[int, int]:
        stage = int(path.split(".")[1])
        return cast(tuple[int, int], self.swin.layers[stage].output_resolution)

    def stem(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.swin.patch_embed(images))

    def served(self, x: Tensor, depth: int) -> Tensor:
        return normed(self.swin, x, early=self._stages[depth - 1] < len(self.swin.layers) - 1).mean(dim=(1, 2))

    def scored(self, x: Tensor, depth: int) -> Tensor:
        """Return the mean over the patches, merged as for the next stage where there is one; so do the authors."""
        after = self._stages[depth - 1] + 1
        merged = self.swin.layers[after].downsample(x) if after < len(self.swin.layers) else x
        return cast(Tensor, merged.mean(dim=(1, 2)))


def normed(swin: SwinTransformer, x: Tensor, *, early: bool) -> Tensor:
    """Return the last norm of x (…, dim), before the last stage without a weight and a bias."""
    return F.layer_norm(x, x.shape[-1:], eps=swin.norm.eps) if early else cast(Tensor, swin.norm(x))


def cut(model: TimmModel, depth: int) -> TimmModel:
    """Leave out the blocks above the depth, and return the model; its output is the feature that a head takes there."""
    blocks = len(trunk_of(model).dims)
    if not 1 <= depth <= blocks:
        raise InvalidSettingError(f"depth {depth} is outside 1..{blocks}: choose one within")
    if not isinstance(model, SwinTransformer):
        model.blocks = model.blocks[:depth]
        return model
    left, kept = depth, 0
    while left > len(model.layers[kept].blocks):
        left, kept = left - len(model.layers[kept].blocks), kept + 1
    last = model.layers[kept]
    last.blocks = last.blocks[:left]
    if kept < len(model.layers) - 1:
        width, weight = _width(last), next(model.parameters())
        norm = nn.LayerNorm(width, eps=model.norm.eps, elementwise_affine=False, device=weight.device)
        model.layers, model.norm, model.num_features = model.layers[: kept + 1], norm.to(weight.dtype), width
        model.head_hidden_size = width
        model.head.num_features = width
    return model


def blocks_of(model: TimmModel) -> Iterator[tuple[str, Any]]:
    """Give each block with timm's path."""
    if not isinstance(model, SwinTransformer):
        yield from ((f"blocks.{index}", block) for index, block in enumerate(model.blocks))
        return
    for stage, layer in enumerate(model.layers):
        yield from ((f"layers.{stage}.blocks.{index}", block) for index, block in enumerate(layer.blocks))


def _steps(layer: nn.Module) -> Iterator[Step]:
    for index, block in enumerate(cast(nn.Sequential, layer.blocks)):
        merge = layer.downsample
        yield block if index or not isinstance(merge, PatchMerging) else _Merging(merge, block)


@dataclass(frozen=True)
class _Merging:
    merge: nn.Module
    block: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block(self.merge(x)))


def _width(layer: nn.Module) -> int:
    """Return the width of a stage, whatever stands around its blocks."""
    merge = layer.downsample
    return cast(int, merge.out_dim if isinstance(merge, PatchMerging) else layer.dim)
