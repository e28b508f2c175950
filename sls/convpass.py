"""Convpass (Jie and Deng 2022, arXiv 2207.07039): a bottleneck with a convolution beside attention and the MLP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from sls.adapted import Stored, Tuned, Wrapped, adapted_blocks, adapted_paths, load_tensors, tensors_of, trunk
from store.backbones import Backbone
from store.errors import AdapterMismatchError

KIND = "CONVPASS"
PLACES = ("attn", "mlp")
PATH = re.compile(r"blocks\.(\d+)\.(?:attn|mlp)")
DROPOUT = 0.1


class Convpass(nn.Module):
    """y = s * up(act(conv(act(down(x))))), act(v) = v * sigmoid(1.702 v); x (n, prefix + height * width, dim).

    conv is 3 x 3 over the grid of patches; each prefix token (class token, registers) is a grid of one. It is dropped
    out before `up` in training, and starts as zero.
    """

    scale: Tensor

    def __init__(self, dim: int, hidden: int, grid: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("scale", torch.tensor(scale))
        self.down, self.up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.dirac_(self.conv.weight)
        for zeros in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(cast(Tensor, zeros))

    def forward(self, x: Tensor) -> Tensor:
        hidden = _quick_gelu(self.down(x))
        height, width = self.grid
        prefix, patches = hidden[:, : -height * width], hidden[:, -height * width :]
        # on a grid of one, a 3 x 3 convolution is its middle
        alone = nn.functional.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
        beside = self.conv(patches.transpose(1, 2).reshape(len(x), -1, height, width)).flatten(2).transpose(1, 2)
        hidden = _quick_gelu(torch.cat([alone, beside], dim=1))
        out: Tensor = self.up(nn.functional.dropout(hidden, DROPOUT, self.training))
        return self.scale * out


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class ConvpassBlock(nn.Module):
    """h = norm1(x), x = x + ls1(attn(h)) + p(h); then h = norm2(x), x = x + ls2(mlp(h)) + q(h)."""

    def __init__(self, block: Block, attn: Convpass, mlp: Convpass) -> None:
        super().__init__()
        self.block, self.beside_attn, self.beside_mlp = block, attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        h = block.norm1(x)
        x = x + block.drop_path1(block.ls1(block.attn(h))) + self.beside_attn(h)
        h = block.norm2(x)
        out: Tensor = x + block.drop_path2(block.ls2(block.mlp(h))) + self.beside_mlp(h)
        return out


def wrap(backbone: Backbone, tuned: Tuned, dtype: torch.dtype) -> Wrapped:
    """Put two Convpass modules beside attention and the MLP of every adapted block."""
    vit = trunk(backbone, tuned.depth, dtype)
    adapters = _insert(vit, adapted_blocks(tuned), tuned.rank, tuned.scale)
    if tuned.adapter:
        load_tensors(adapters, tuned.adapter)
    return Wrapped(vit, lambda: tensors_of(adapters))


def stored(_: Backbone, tuned: Tuned) -> Stored:
    """Give a config of our own, which PEFT does not know, and the tensors as they are."""
    paths = adapted_paths(tuned, PLACES)
    return Stored({"peft_type": KIND, "r": tuned.rank, "target_modules": paths}, tuned.adapter)


def load(vit: VisionTransformer, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> VisionTransformer:
    """Put what a folder holds into the blocks that the model has.

    Raises `AdapterMismatchError` for a config that is not ours, `KeyError` or `RuntimeError` for tensors that lack or
    do not fit.
    """
    rank, paths = config.get("r"), config.get("target_modules")
    blocks = sorted(
        {int(found[1]) for found in map(PATH.fullmatch, map(str, paths if type(paths) is list else [])) if found}
    )
    if (
        type(rank) is not int
        or rank < 1
        or paths != [f"blocks.{block}.{place}" for block in blocks for place in PLACES]
    ):
        raise AdapterMismatchError(
            f"{KIND} needs r >= 1 and in target_modules blocks.N.attn and blocks.N.mlp of each block: write it again"
        )
    load_tensors(_insert(vit, [block for block in blocks if block < len(vit.blocks)], rank, 1.0), tensors)
    return vit


def _insert(vit: VisionTransformer, blocks: Iterable[int], hidden: int, scale: float) -> dict[str, Convpass]:
    dtype, grid = vit.pos_embed.dtype, vit.patch_embed.grid_size
    adapters = {}
    for index in blocks:
        pair = [Convpass(vit.embed_dim, hidden, grid, scale).to(dtype) for _ in PLACES]
        vit.blocks[index] = ConvpassBlock(vit.blocks[index], *pair)
        adapters.update({f"blocks.{index}.{place}": each for place, each in zip(PLACES, pair, strict=True)})
    return adapters
