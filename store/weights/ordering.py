"""A backbone whose heads and units stand in another order within each block: the same function, other bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer

from store.adapters.widths import FC1, FC2, PROJ, QKV, require_one_width
from store.errors import InvalidSettingError
from store.weights.description import Backbone, describe
from store.weights.width import Tensors

Orders = Sequence[Sequence[int]]


def order_backbone(backbone: Backbone, heads: Orders, units: Orders, *, label: str) -> Backbone:
    """Move heads and units of each block into these orders, the first of an order to the front.

    The result has a fingerprint of its own, which stands for its weights and so for the orders. Its logits differ from
    the original's by rounding alone. Raises `InvalidSettingError` unless each order is one of all heads or units.
    """
    require_one_width(backbone.record)
    model = cast(VisionTransformer, backbone.skeleton())
    for name, orders, total in (
        ("heads", heads, model.blocks[0].attn.num_heads),
        ("units", units, model.blocks[0].mlp.fc1.out_features),
    ):
        if len(orders) != len(model.blocks) or any(sorted(order) != list(range(total)) for order in orders):
            raise InvalidSettingError(
                f"orders of {name} are not {len(model.blocks)} permutations of {total}: give one for each block"
            )
    tensors = dict(backbone.tensors)
    for block, (head_order, unit_order) in enumerate(zip(heads, units, strict=True)):
        tensors |= _ordered(backbone.tensors, f"blocks.{block}", head_order, unit_order)
    identity = backbone.record.id
    return describe(
        label,
        model,
        tensors,
        identity.arguments,
        source=f"ordered:{identity.fingerprint}",
        preprocessing=identity.preprocessing,
    )


def is_ordered(backbone: Backbone) -> bool:
    """Whether `order_backbone` made it, so that its first heads and units are the most important ones."""
    return backbone.record.source.startswith("ordered:")


def _ordered(tensors: Tensors, block: str, heads: Sequence[int], units: Sequence[int]) -> dict[str, torch.Tensor]:
    by_head, by_unit = torch.tensor(heads), torch.tensor(units)
    changed = {}
    for part in ("weight", "bias"):
        if (name := f"{block}.{QKV}.{part}") in tensors:
            changed[name] = torch.unflatten(tensors[name], 0, (3, len(heads), -1))[:, by_head].flatten(0, 2)
        if (name := f"{block}.{FC1}.{part}") in tensors:
            changed[name] = tensors[name][by_unit]
    proj, fc2 = f"{block}.{PROJ}.weight", f"{block}.{FC2}.weight"
    changed[proj] = torch.unflatten(tensors[proj], 1, (len(heads), -1))[:, by_head].flatten(1)
    changed[fc2] = tensors[fc2][:, by_unit]
    return {name: tensor.contiguous() for name, tensor in changed.items()}
