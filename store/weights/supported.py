"""Which timm models are supported: plain pre-norm vision transformers, however they pool; Swins; and no others."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from timm.layers import Attention, LayerScale, Mlp, PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from store.errors import UnservedBackboneError

POOLS = ("token", "avg", "avgmax", "max", "map", "prr")


TimmModel: TypeAlias = VisionTransformer | SwinTransformer


def check_supported(model: nn.Module, name: str) -> TimmModel:
    """Return the model, or raise `UnservedBackboneError` naming the part that the engine does not restate."""
    problem = _unserved_part(model)
    if problem is not None:
        raise UnservedBackboneError(
            f"backbone {name!r} is not served ({problem}): use a timm VisionTransformer (ViT, DeiT, CLIP, SigLIP, "
            f"DINOv2) of plain pre-norm blocks on RGB patches, with pooling {', '.join(POOLS)}, or a Swin of the first "
            "version, with pooling avg"
        )
    return cast(TimmModel, model)


def _unserved_part(model: nn.Module) -> str | None:
    if type(model) is SwinTransformer:
        return _unserved_swin(model)
    if type(model) not in (VisionTransformer, VisionTransformerDistilled):
        return f"class {type(model).__name__}"
    if model.global_pool not in POOLS:
        return f"pooling {model.global_pool!r}"
    vit = cast(VisionTransformer, model)
    return (
        _unserved_stem(vit)
        or next(filter(None, map(_unserved_block, vit.blocks)), None)
        or (None if isinstance(vit.norm, nn.Identity) else _unserved_norm(vit.norm))
    )


def _unserved_swin(swin: SwinTransformer) -> str | None:
    if swin.global_pool != "avg":
        return f"pooling {swin.global_pool!r} of a Swin"
    if any(type(stage.downsample) not in (nn.Identity, PatchMerging) for stage in swin.layers):
        return "another merge of patches"
    blocks = (block for stage in swin.layers for block in stage.blocks)
    merges = (stage.downsample.norm for stage in swin.layers if not isinstance(stage.downsample, nn.Identity))
    return (
        _unserved_stem(swin)
        or next(filter(None, map(_unserved_swin_block, blocks)), None)
        or next(filter(None, map(_unserved_norm, (*merges, swin.norm))), None)
    )


def _unserved_swin_block(block: Any) -> str | None:
    if type(block) is not SwinTransformerBlock:
        return f"block {type(block).__name__}"
    if type(block.attn) is not WindowAttention:
        return f"attention {type(block.attn).__name__}"
    if type(block.mlp) is not Mlp:
        return f"mlp {type(block.mlp).__name__}"
    return _unserved_norm(block.norm1) or _unserved_norm(block.norm2)


def _unserved_stem(model: TimmModel) -> str | None:
    embed = model.patch_embed
    if type(embed) is not PatchEmbed:
        return f"patch embedding {type(embed).__name__}"
    if model.in_chans != 3:
        return f"images of {model.in_chans} channels"
    ragged = any(side % patch for side, patch in zip(embed.img_size, embed.patch_size, strict=True))
    # fixed sizes drop the rest and dynamic padding fills it up; timm's forward fails on one without the other
    if ragged and (isinstance(model, SwinTransformer) or model.dynamic_img_size != embed.dynamic_img_pad):
        return f"image size {embed.img_size}, which patches of {embed.patch_size} do not divide"
    return None


def _unserved_block(block: Any) -> str | None:
    if type(block) is not Block:
        return f"block {type(block).__name__}"
    if type(block.attn) is not Attention or block.attn.gate is not None:
        return f"attention {type(block.attn).__name__}"
    if type(block.mlp) is not Mlp:
        return f"mlp {type(block.mlp).__name__}"
    for scale in (block.ls1, block.ls2):
        if not isinstance(scale, (nn.Identity, LayerScale)):
            return f"residual scale {type(scale).__name__}"
    return _unserved_norm(block.norm1) or _unserved_norm(block.norm2)


def _unserved_norm(norm: nn.Module) -> str | None:
    # tasks may bring a weight and a bias of their own
    plain = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
    return None if plain else f"norm {type(norm).__name__}"
