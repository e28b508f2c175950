"""Masks: factors of heads, MLP units and patches of a timm model, soft to learn what a task needs, hard to try it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sls.adapters.methods import plain_blocks
from sls.adapters.model import AdaptedModel
from sls.data.dataset import Split, Transform
from sls.progress import Progress, ProgressCallback
from sls.training.frozen_prefix import FeatureSource
from sls.training.recipe import TrainingConfig
from sls.training.trainer import Trainer, to_bfloat16
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex, kept_places
from store.weights.tokens import insert_tokens

NAME = "width_masks"
TOKENS_BEGIN = 3.0  # of which tanh makes 0.995
Hook = Callable[..., object]


class Penalties(NamedTuple):
    """The weights of the L1 norms in the loss, one for each kind; without one for tokens they have no masks."""

    heads: float
    units: float
    tokens: float | None = None


class SoftMasks(nn.Module):
    """Factors of heads (blocks, heads), of units (blocks, units) and of patches (blocks, patches), 1 at first.

    A unit's factor multiplies its activation. A head's multiplies its queries, keys and values (`on_qkv`), as in
    ViT-Slim (Chavan et al., CVPR 2022), or its output, as a scale factor of Network Slimming (Liu et al., ICCV 2017).
    A patch's multiplies what attention takes of it; as in ViT-Slim it is the tanh of a number that is 3 at first, so
    0.995. The class token and registers have none.
    """

    def __init__(self, vit: VisionTransformer, *, squashed: bool) -> None:
        super().__init__()
        blocks = plain_blocks(vit)
        self.heads = nn.Parameter(torch.ones(len(blocks), blocks[0].attn.num_heads))
        self.units = nn.Parameter(torch.ones(len(blocks), _units(blocks[0].mlp.fc1)))
        begin = TOKENS_BEGIN if squashed else 1.0
        self.tokens = nn.Parameter(torch.full((len(blocks), vit.patch_embed.num_patches), begin))
        self.prefix, self.squashed = vit.num_prefix_tokens, squashed

    @property
    def patches(self) -> Tensor:
        """The factors of patches."""
        return self.tokens.tanh() if self.squashed else self.tokens

    def penalty(self, weights: Penalties) -> Tensor:
        """heads * sum |z_heads| + units * sum |z_units| + tokens * sum |z_patches|."""
        total = weights.heads * self.heads.float().abs().sum() + weights.units * self.units.float().abs().sum()
        return total if weights.tokens is None else total + weights.tokens * self.patches.float().abs().sum()


def insert_masks(vit: VisionTransformer, *, on_qkv: bool, tokens: bool = False) -> SoftMasks:
    """Add masks to a model, adapted or not, of which they become the submodule `width_masks`."""
    masks = SoftMasks(vit, squashed=on_qkv)
    masks.tokens.requires_grad_(tokens)
    vit.add_module(NAME, masks)
    for index, block in enumerate(plain_blocks(vit)):
        if tokens:
            block.attn.register_forward_pre_hook(_scaling_patches(masks, index))
        if on_qkv:
            block.attn.qkv.register_forward_hook(_scaling_output(masks, index))
        else:
            block.attn.proj.register_forward_pre_hook(_scaling_input(masks, index, "heads"))
        block.mlp.fc2.register_forward_pre_hook(_scaling_input(masks, index, "units"))
    return masks


@torch.no_grad()
def insert_width(vit: VisionTransformer, width: WidthIndex, tokens: TokenIndex | None = None) -> None:
    """Make a model of width.blocks blocks answer as if the other heads, units and patches were not there."""
    if tokens is not None:
        insert_tokens(vit, tokens)
    masks = insert_masks(vit, on_qkv=False)
    for index, kept in enumerate(width.masks):
        for factors, mask in ((masks.heads, kept.heads), (masks.units, kept.units)):
            factors[index] = 0.0
            factors[index, kept_places(mask)] = 1.0


def train_masks(
    model: AdaptedModel,
    images: Split,
    transform: Transform,
    recipe: TrainingConfig,
    *,
    on_qkv: bool,
    l1: Penalties,
    stage: str,
    progress: ProgressCallback,
) -> SoftMasks:
    """Train masks with the head and what is trainable of the model."""
    masks = insert_masks(model.vit, on_qkv=on_qkv, tokens=l1.tokens is not None)
    for block in plain_blocks(model.vit):
        block.attn.fused_attn = False  # its backward pass takes nearly twice as long in bfloat16 on a CPU
    weights = to_bfloat16(model)
    source = FeatureSource(model.vit, images, transform, frozen=0)
    trainer = Trainer(model, weights, source, recipe, penalty=lambda: masks.penalty(l1))
    began = time.monotonic()
    while not trainer.done:
        loss = trainer.run_epoch()
        left = (time.monotonic() - began) / trainer.epoch * (recipe.epochs - trainer.epoch)
        progress(Progress(stage, trainer.epoch, recipe.epochs, left, loss=loss))
    trainer.finish()
    return masks


def _units(fc1: nn.Module) -> int:
    """Return the units of an MLP by its first map, which an adapter may have wrapped."""
    return max(layer.out_features for layer in fc1.modules() if isinstance(layer, nn.Linear))


def _scaling_output(masks: SoftMasks, index: int) -> Hook:
    def scale(_module: nn.Module, _inputs: object, qkv: Tensor) -> Tensor:
        factors = masks.heads[index]
        return torch.flatten(torch.unflatten(qkv, -1, (3, len(factors), -1)) * factors[:, None], -3)

    return scale


def _scaling_patches(masks: SoftMasks, index: int) -> Hook:
    def scale(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (torch.cat([x[:, : masks.prefix], x[:, masks.prefix :] * masks.patches[index, :, None]], dim=1),)

    return scale


def _scaling_input(masks: SoftMasks, index: int, kind: str) -> Hook:
    def scale(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        factors: Tensor = getattr(masks, kind)[index]
        (x,) = inputs
        return (torch.flatten(torch.unflatten(x, -1, (len(factors), -1)) * factors[:, None], -2),)

    return scale
