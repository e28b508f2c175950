"""Masks: a factor for each head and each MLP unit of a timm model, soft to learn what a task needs, hard to try it."""

from __future__ import annotations

import time
from collections.abc import Callable

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
from store.records.width import WidthIndex, kept_places

NAME = "width_masks"
Hook = Callable[..., object]


class SoftMasks(nn.Module):
    """Factors of heads (blocks, heads) and of units (blocks, units), all 1 at first.

    A unit's factor multiplies its activation. A head's multiplies its queries, keys and values (`on_qkv`), as in
    ViT-Slim (Chavan et al., CVPR 2022), or its output, as a scale factor of Network Slimming (Liu et al., ICCV 2017).
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        blocks = plain_blocks(vit)
        self.heads = nn.Parameter(torch.ones(len(blocks), blocks[0].attn.num_heads))
        self.units = nn.Parameter(torch.ones(len(blocks), _units(blocks[0].mlp.fc1)))

    def penalty(self, heads: float, units: float) -> Tensor:
        """heads * sum |z_heads| + units * sum |z_units|."""
        return heads * self.heads.float().abs().sum() + units * self.units.float().abs().sum()


def insert_masks(vit: VisionTransformer, *, on_qkv: bool) -> SoftMasks:
    """Add masks to a model, adapted or not, of which they become the submodule `width_masks`."""
    masks = SoftMasks(vit)
    vit.add_module(NAME, masks)
    for index, block in enumerate(plain_blocks(vit)):
        if on_qkv:
            block.attn.qkv.register_forward_hook(_scaling_output(masks, index))
        else:
            block.attn.proj.register_forward_pre_hook(_scaling_input(masks, index, "heads"))
        block.mlp.fc2.register_forward_pre_hook(_scaling_input(masks, index, "units"))
    return masks


@torch.no_grad()
def insert_width(vit: VisionTransformer, width: WidthIndex) -> None:
    """Make a model of width.blocks blocks answer as if the other heads and units were not there."""
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
    l1: tuple[float, float],
    stage: str,
    progress: ProgressCallback,
) -> SoftMasks:
    """Train masks with the head and what is trainable of the model; `l1` are the weights of heads and units."""
    masks = insert_masks(model.vit, on_qkv=on_qkv)
    for block in plain_blocks(model.vit):
        block.attn.fused_attn = False  # its backward pass takes nearly twice as long in bfloat16 on a CPU
    weights = to_bfloat16(model)
    source = FeatureSource(model.vit, images, transform, frozen=0)
    trainer = Trainer(model, weights, source, recipe, penalty=lambda: masks.penalty(*l1))
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


def _scaling_input(masks: SoftMasks, index: int, kind: str) -> Hook:
    def scale(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        factors: Tensor = getattr(masks, kind)[index]
        (x,) = inputs
        return (torch.flatten(torch.unflatten(x, -1, (len(factors), -1)) * factors[:, None], -2),)

    return scale
