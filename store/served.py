"""Which timm models the engine restates: plain pre-norm vision transformers, and no others."""

from __future__ import annotations

from typing import cast

from timm.layers import Attention, LayerScale, Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from store.errors import UnservedBackboneError


def check_served(model: nn.Module, name: str) -> VisionTransformer:
    """Return the model, or raise `UnservedBackboneError` naming the part that the engine does not restate."""
    problem = _unserved_part(model)
    if problem is not None:
        raise UnservedBackboneError(
            f"backbone {name!r} is not served ({problem}): use a timm VisionTransformer of plain pre-norm blocks "
            "with token or avg pooling"
        )
    return cast(VisionTransformer, model)


def _unserved_part(model: nn.Module) -> str | None:
    if type(model) is not VisionTransformer:
        return f"class {type(model).__name__}"
    if model.attn_pool is not None or model.global_pool not in ("token", "avg"):
        return f"pooling {model.global_pool!r}"
    if model.patch_embed.dynamic_img_pad or model.dynamic_img_size:
        return "dynamic image size"
    for block in model.blocks:
        if type(block) is not Block:
            return f"block {type(block).__name__}"
        if type(block.attn) is not Attention or block.attn.gate is not None:
            return f"attention {type(block.attn).__name__}"
        if type(block.mlp) is not Mlp:
            return f"mlp {type(block.mlp).__name__}"
        for scale in (block.ls1, block.ls2):
            if not isinstance(scale, (nn.Identity, LayerScale)):
                return f"residual scale {type(scale).__name__}"
    return None
