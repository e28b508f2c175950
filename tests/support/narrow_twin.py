"""The slow twin of a width index: stock timm whose heads and units are taken out one by one."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from store.records.backbone import BackboneRecord
from store.records.width import WidthIndex
from store.weights.backbones import Backbone


@dataclass(frozen=True)
class NarrowTwin:
    """What the oracles ask of a backbone: its record, its tensors, and a fresh model."""

    record: BackboneRecord
    model: VisionTransformer

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def build(self, *, dtype: torch.dtype = torch.float32) -> VisionTransformer:
        return copy.deepcopy(self.model).to(dtype)


def narrow_twin(backbone: Backbone, width: WidthIndex) -> NarrowTwin:
    vit = backbone.build()
    for block, masks in zip(vit.blocks, width.masks, strict=False):
        attn, mlp = block.attn, block.mlp
        heads = [head for head in range(width.heads) if masks.heads & (1 << head)]
        units = [unit for unit in range(width.units) if masks.units & (1 << unit)]
        numbers = [head * attn.head_dim + i for head in heads for i in range(attn.head_dim)]
        rows = [part * attn.attn_dim + number for part in range(3) for number in numbers]
        attn.qkv, attn.proj = cut(attn.qkv, rows=rows), cut(attn.proj, columns=numbers)
        mlp.fc1, mlp.fc2 = cut(mlp.fc1, rows=units), cut(mlp.fc2, columns=units)
        attn.num_heads, attn.attn_dim = len(heads), len(numbers)
    modules = {
        path: (layer.out_features, layer.in_features)
        for path, layer in vit.named_modules()
        if path.startswith("blocks.") and isinstance(layer, nn.Linear)
    }
    return NarrowTwin(dataclasses.replace(backbone.record, modules=modules), vit)


def cut(layer: nn.Linear, *, rows: list[int] | None = None, columns: list[int] | None = None) -> nn.Linear:
    weight = layer.weight if rows is None else torch.stack([layer.weight[row] for row in rows])
    weight = weight if columns is None else torch.stack([weight[:, column] for column in columns], dim=1)
    narrow = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
    narrow.weight.data = weight.detach().clone()
    if layer.bias is not None:
        narrow.bias.data = layer.bias.detach().clone() if rows is None else layer.bias.detach()[rows].clone()
    return narrow.requires_grad_(False)


def random_width(seed: int, blocks: int, *, heads: int, units: int, prefix: bool | None = None) -> WidthIndex:
    """Draw what each block keeps: everything, one, the first ones, or any."""
    draw = random.Random(seed)

    def mask(total: int) -> int:
        kind = "first" if prefix else draw.choice(("all", "one", "first", "any", "any"))
        if kind == "all":
            return (1 << total) - 1
        if kind == "one":
            return 1 << draw.randrange(total)
        if kind == "first":
            return (1 << draw.randint(1, total)) - 1
        return draw.getrandbits(total) or 1

    return WidthIndex.of([(mask(heads), mask(units)) for _ in range(blocks)], heads=heads, units=units)
