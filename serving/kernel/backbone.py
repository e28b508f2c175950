"""A backbone's weights as the kernel reads them: packed once, in one piece of memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from ctypes import c_void_p
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from serving.kernel.buffers import Plan, in_huge_pages, padded, round_up
from serving.kernel.structs import ACTIVATIONS, MAPS, NORMS, Block, Linear, Model, Norm
from serving.kernel.support import SLICE, Coverage, activation_of

BF16_NBYTES, FLOAT_NBYTES = 2, 4


@dataclass(frozen=True)
class PackedBackbone:
    """Where each array begins in the memory, by its name in timm; the memory may be a file that processes share."""

    memory: NDArray[np.uint8]
    places: Mapping[str, int]

    def address(self, name: str) -> int:
        return int(self.memory.ctypes.data) + self.places[name]

    def floats(self, name: str, count: int) -> NDArray[np.float32]:
        """Return a view of a float32 array."""
        start = self.places[name]
        return self.memory[start : start + count * FLOAT_NBYTES].view(np.float32)


def layout(vit: VisionTransformer, covered: Coverage) -> tuple[dict[str, int], int]:
    """Return each array's place and the bytes of all, which depend on the architecture alone."""
    plan, places = Plan(), {}
    for path, linear in _linears(vit, covered):
        out, in_ = _sizes(linear)
        places[f"{path}.weight"] = plan.take(out * in_ * BF16_NBYTES)
        places[f"{path}.bias"] = plan.take(out * FLOAT_NBYTES)
    for name, count in _vectors(vit, covered):
        places[name] = plan.take(count * FLOAT_NBYTES)
    return places, plan.nbytes


def pack_backbone(library: ctypes.CDLL, vit: VisionTransformer, covered: Coverage) -> PackedBackbone:
    """Pack the weights of a bfloat16 model."""
    places, nbytes = layout(vit, covered)
    packed = PackedBackbone(in_huge_pages(nbytes), places)
    for path, linear in _linears(vit, covered):
        weight = _parameter(linear, "weight").flatten(1).to(torch.bfloat16).contiguous()
        out, in_ = weight.shape
        library.onetrunk_pack_weight(weight.data_ptr(), out, in_, packed.address(f"{path}.weight"))
        bias = np.zeros(out, np.float32) if linear.bias is None else _parameter(linear, "bias").float().numpy()
        packed.floats(f"{path}.bias", round_up(out, SLICE))[:] = padded(bias, round_up(out, SLICE))
    for name, count in _vectors(vit, covered):
        packed.floats(name, count)[:] = _vector(vit, name).detach().float().reshape(-1).numpy()
    return packed


def model_of(vit: VisionTransformer, packed: PackedBackbone, covered: Coverage) -> Model:
    """Return the C description; it holds addresses within `packed`, which must stay."""
    first, grid = vit.blocks[0], vit.patch_embed.grid_size
    model = Model(
        dim=vit.embed_dim,
        heads=first.attn.num_heads,
        hidden=round_up(first.mlp.fc1.out_features, SLICE),
        tokens=vit.num_prefix_tokens + grid[0] * grid[1],
        prefix=vit.num_prefix_tokens,
        grid_height=grid[0],
        grid_width=grid[1],
        blocks=len(vit.blocks),
        activation=ACTIVATIONS.index(cast(str, activation_of(first.mlp.act))),
        norm_eps=first.norm1.eps,
        query_key_eps=getattr(first.attn.q_norm, "eps", 0.0),
        last_eps=next((n.eps for n in (vit.norm, vit.fc_norm) if isinstance(n, nn.LayerNorm)), 0.0),
        attention_scale=first.attn.scale,
        average=int(vit.global_pool == "avg"),
    )
    blocks = (Block * len(vit.blocks))(*(_block(packed, index, block) for index, block in enumerate(vit.blocks)))
    model.block = blocks
    if covered.stem:
        model.patch = _linear(packed, "patch_embed.proj", vit.patch_embed.proj)
        model.patch_height, model.patch_width = vit.patch_embed.patch_size
        model.position = packed.address("position")
        model.before = _norm(packed, "norm_pre")
    if covered.pooling:
        model.pooled = _norm(packed, "fc_norm")
    return model


def _linears(vit: VisionTransformer, covered: Coverage) -> Iterator[tuple[str, nn.Module]]:
    for index, block in enumerate(vit.blocks):
        for path in MAPS:
            yield f"blocks.{index}.{path}", block.get_submodule(path)
    if covered.stem:
        yield "patch_embed.proj", vit.patch_embed.proj


def _vectors(vit: VisionTransformer, covered: Coverage) -> Iterator[tuple[str, int]]:
    """Yield what is kept in float32: norms, layer scales, and what the stem adds to the patches."""
    whole = [("norm_pre", vit.norm_pre)] if covered.stem else []
    whole += [("norm", vit.norm), ("fc_norm", vit.fc_norm)] if covered.pooling else []
    for path, norm in whole + [item for index, block in enumerate(vit.blocks) for item in _block_norms(index, block)]:
        if isinstance(norm, nn.LayerNorm):
            yield f"{path}.weight", norm.weight.numel()
            yield f"{path}.bias", norm.bias.numel()
    for index, block in enumerate(vit.blocks):
        for name in ("ls1", "ls2"):
            if not isinstance(getattr(block, name), nn.Identity):
                yield f"blocks.{index}.{name}.gamma", vit.embed_dim
    if covered.stem:
        grid = vit.patch_embed.grid_size
        yield "position", (vit.num_prefix_tokens + grid[0] * grid[1]) * vit.embed_dim


def _block_norms(index: int, block: TimmBlock) -> list[tuple[str, nn.Module]]:
    path = f"blocks.{index}"
    norms = [(f"{path}.{name}", getattr(block, name)) for name in NORMS]
    return [*norms, (f"{path}.attn.q_norm", block.attn.q_norm), (f"{path}.attn.k_norm", block.attn.k_norm)]


def _vector(vit: VisionTransformer, name: str) -> Tensor:
    if name != "position":
        return cast(Tensor, vit.get_parameter(name))
    patches = torch.zeros(1, vit.patch_embed.num_patches, vit.embed_dim, dtype=vit.patch_embed.proj.weight.dtype)
    return cast(Tensor, vit._pos_embed(patches))


def _block(packed: PackedBackbone, index: int, block: TimmBlock) -> Block:
    path = f"blocks.{index}"
    scales = [packed.places.get(f"{path}.{name}.gamma") for name in ("ls1", "ls2")]
    addresses = [None if place is None else packed.memory.ctypes.data + place for place in scales]
    return Block(
        maps=(Linear * len(MAPS))(*(_linear(packed, f"{path}.{name}", block.get_submodule(name)) for name in MAPS)),
        norms=(Norm * len(NORMS))(*(_norm(packed, f"{path}.{name}") for name in NORMS)),
        query=_norm(packed, f"{path}.attn.q_norm"),
        key=_norm(packed, f"{path}.attn.k_norm"),
        scales=(c_void_p * 2)(*addresses),
    )


def _linear(packed: PackedBackbone, path: str, linear: nn.Module) -> Linear:
    return Linear(packed.address(f"{path}.weight"), packed.address(f"{path}.bias"), *_sizes(linear))


def _sizes(linear: nn.Module) -> tuple[int, int]:
    """Return a linear map's (out, in), or a patch embedding's, as multiples of 32."""
    weight = _parameter(linear, "weight")
    return round_up(weight.shape[0], SLICE), round_up(weight[0].numel(), SLICE)


def _parameter(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name).detach()


def _norm(packed: PackedBackbone, path: str) -> Norm:
    if f"{path}.weight" not in packed.places:
        return Norm(None, None)
    return Norm(packed.address(f"{path}.weight"), packed.address(f"{path}.bias"))
