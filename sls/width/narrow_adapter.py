"""A tuned adapter at the pruned shape: cut by the same index as the weights that it changes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from sls.adapters.model import TunedModel, block_of
from store.adapters.widths import FC1, FC2, PROJ, QKV
from store.records.width import WidthIndex
from store.weights.forms import Kept
from store.weights.width import kept_of, narrowed

MODULE = re.compile(r"\b(blocks\.\d+\.(?:attn|mlp))\.(qkv|proj|fc1|fc2)\.(.+)")
OF_OUTPUT = frozenset({"lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "ia3_l", "scale", "shift", "bias"})
OF_INPUT = frozenset({"lora_A.weight", "ia3_l"})
FROM_FRESH = frozenset({"vera"})
"""Methods whose modules share what is cut: they begin with fresh tensors at the pruned shape."""


def narrowed_model(tuned: TunedModel, width: WidthIndex) -> TunedModel:
    """Return the adapter of blocks 1..width.blocks at the pruned shape, and the head."""
    if tuned.method in FROM_FRESH and kept_of(width):
        return replace(tuned, depth=width.blocks, adapter={})
    kept = kept_of(width)
    inside = {key: value for key, value in tuned.adapter.items() if block_of(key) <= width.blocks}
    adapter = {key: _narrowed(key, tensor, kept) for key, tensor in inside.items()}
    return replace(tuned, depth=width.blocks, adapter=adapter)


def _narrowed(key: str, tensor: Tensor, kept: Mapping[str, Kept]) -> Tensor:
    match = MODULE.search(key)
    part = None if match is None else kept.get(match[1])
    if match is None or part is None:
        return tensor
    kind, name = f"{match[1].rsplit('.', 1)[1]}.{match[2]}", match[3]
    cut = (kind in (QKV, FC1) and name in OF_OUTPUT) or (kind in (PROJ, FC2) and name in OF_INPUT)
    whole = not cut or not tensor.dim()  # a scale of the adapter itself is one number
    return tensor if whole else narrowed(tensor, kind, "weight", part).contiguous()
