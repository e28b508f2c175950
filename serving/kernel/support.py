"""Which backbones the kernel restates, and which part of their stem and end it leaves to torch."""

from __future__ import annotations

from dataclasses import dataclass

from timm.layers import GELU, GELUTanh, LayerScale, PatchEmbed, QuickGELU
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

SLICE = 32  # numbers of one product: widths are multiples of it
MOST_HEAD = 256  # numbers of an attention head
ACTIVATIONS: tuple[tuple[type[nn.Module], str], ...] = (
    (GELUTanh, "gelu_tanh"),
    (QuickGELU, "quick_gelu"),
    (nn.ReLU, "relu"),
)


@dataclass(frozen=True)
class Coverage:
    """Whether the kernel runs this backbone's blocks, and why not; whether its stem and its pooling too."""

    blocks: bool
    reason: str
    stem: bool = False
    pooling: bool = False


def coverage(vit: VisionTransformer | SwinTransformer, *, patch_mean: bool = False) -> Coverage:
    """Say what the kernel runs; with `patch_mean` heads may read the mean of the patches too, which torch pools."""
    if isinstance(vit, SwinTransformer):
        return Coverage(blocks=False, reason="a Swin attends within windows, and its blocks differ in width")
    reason = next(filter(None, (_unserved(vit, block) for block in vit.blocks)), None)
    if reason is not None:
        return Coverage(blocks=False, reason=reason)
    return Coverage(blocks=True, reason="", stem=_serves_stem(vit), pooling=_serves_pooling(vit) and not patch_mean)


def activation_of(act: nn.Module) -> str | None:
    """Return the kernel's name of an activation, None where it has none."""
    if type(act) in (nn.GELU, GELU):
        return "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else "gelu"
    return next((name for kind, name in ACTIVATIONS if type(act) is kind), None)


def _unserved(vit: VisionTransformer, block: Block) -> str | None:
    attn, mlp, first = block.attn, block.mlp, vit.blocks[0]
    if vit.embed_dim % SLICE:
        return f"its width of {vit.embed_dim} is not a multiple of {SLICE}"
    if attn.attn_dim != vit.embed_dim or attn.head_dim > MOST_HEAD:
        return f"its attention has {attn.num_heads} heads of {attn.head_dim} numbers"
    if not isinstance(attn.norm, nn.Identity) or not isinstance(mlp.norm, nn.Identity):
        return "it has a norm inside attention or the MLP"
    if not all(isinstance(norm, nn.Identity) or _plain(norm) for norm in (attn.q_norm, attn.k_norm)):
        return "the norm of its queries and keys is not a layer norm"
    if activation_of(mlp.act) is None or type(mlp.act) is not type(first.mlp.act):
        return f"its activation is {type(mlp.act).__name__}"
    eps = {norm.eps for norm in (block.norm1, block.norm2, first.norm1)}
    if len(eps) > 1 or mlp.fc1.out_features != first.mlp.fc1.out_features or attn.num_heads != first.attn.num_heads:
        return "its blocks differ in more than their weights"
    if not all(isinstance(scale, (nn.Identity, LayerScale)) for scale in (block.ls1, block.ls2)):
        return "its residual scale is not a layer scale"
    return None


def _serves_stem(vit: VisionTransformer) -> bool:
    embed = vit.patch_embed
    fixed = type(embed) is PatchEmbed and not vit.dynamic_img_size and not embed.dynamic_img_pad
    whole = fixed and not any(side % patch for side, patch in zip(embed.img_size, embed.patch_size, strict=True))
    plain = isinstance(vit.norm_pre, nn.Identity) or (
        _plain(vit.norm_pre) and vit.norm_pre.eps == vit.blocks[0].norm1.eps
    )
    return whole and plain and isinstance(embed.norm, nn.Identity) and isinstance(vit.patch_drop, nn.Identity)


def _serves_pooling(vit: VisionTransformer) -> bool:
    norms = [norm for norm in (vit.norm, vit.fc_norm) if not isinstance(norm, nn.Identity)]
    alike = all(_plain(norm) for norm in norms) and len({norm.eps for norm in norms}) <= 1
    plain = type(vit) is VisionTransformer and vit.attn_pool is None and not vit.pool_include_prefix
    return plain and alike and vit.global_pool in ("token", "avg")


def _plain(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
