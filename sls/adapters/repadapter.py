"""RepAdapter (Luo et al. 2023, arXiv 2302.08106): it is linear, and therefore equal to a LoRA with a bias.

W(x + s(U(Dx + d) + u)) + b = Wx + (sWU)Dx + sW(Ud + u) + b, so A = D, B = sWU and B's bias is sW(Ud + u).
"""

from __future__ import annotations

from typing import cast

import torch
from peft import LoraConfig
from torch import Tensor, nn

from sls.adapters.model import StoredAdapter, TrainableModel, TunedModel, adapted_paths, build_vit, with_adapters
from store.adapters.methods.supported import PREFIX
from store.errors import InvalidSettingError
from store.weights.backbones import Backbone

MODULES = ("attn.qkv", "mlp.fc1")
GROUPS = 2
DROPOUT = 0.1
TENSORS = ("down.weight", "down.bias", "up", "up_bias", "scale")


class RepAdapter(nn.Module):
    """y = x + s * up(down(x)), with dropout between the maps in training; x (…, width).

    down is dense, (hidden, width); up has two groups, (width, hidden / 2): each half of the outputs depends on one
    half of the hidden values. It starts as the identity.
    """

    scale: Tensor

    def __init__(self, width: int, hidden: int, scale: float) -> None:
        super().__init__()
        if width % GROUPS or hidden % GROUPS:
            raise InvalidSettingError(
                f"rank {hidden}, width {width}: RepAdapter's second map has {GROUPS} groups; give an even rank"
            )
        self.register_buffer("scale", torch.tensor(scale))
        self.down = nn.Linear(width, hidden)
        self.up = nn.Parameter(torch.zeros(width, hidden // GROUPS))
        self.up_bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.dropout(self.down(x), DROPOUT, self.training).chunk(GROUPS, dim=-1)
        lifted = [part @ weight.T for part, weight in zip(hidden, self.up.chunk(GROUPS), strict=True)]
        return x + self.scale * (torch.cat(lifted, dim=-1) + self.up_bias)


def wrap(backbone: Backbone, tuned: TunedModel, dtype: torch.dtype) -> TrainableModel:
    """Insert a RepAdapter before qkv and before fc1 of every adapted block."""
    vit = build_vit(backbone, tuned.depth, dtype)
    adapters = {}
    for path in adapted_paths(tuned, MODULES, backbone):
        layer = cast(nn.Linear, vit.get_submodule(path))
        adapters[path] = RepAdapter(layer.in_features, tuned.rank, tuned.scale).to(dtype)
        vit.set_submodule(path, nn.Sequential(adapters[path], layer))
    return with_adapters(vit, adapters, tuned)


def stored(backbone: Backbone, tuned: TunedModel) -> StoredAdapter:
    """Return the equal LoRA, of rank `hidden` and scaling 1."""
    paths = adapted_paths(tuned, MODULES, backbone)
    config = LoraConfig(r=tuned.rank, lora_alpha=tuned.rank, lora_bias=True, target_modules=paths)
    tensors = {
        f"{PREFIX}{path}.{name}": value
        for path in paths
        for name, value in _as_lora(backbone.tensors[f"{path}.weight"], tuned, path).items()
    }
    return StoredAdapter(dict(config.to_dict()), tensors)  # type: ignore[no-untyped-call]  # PEFT leaves it untyped


def _as_lora(weight: Tensor, tuned: TunedModel, path: str) -> dict[str, Tensor]:
    down, offset, up, up_bias, scale = (tuned.adapter[f"{path}.{name}"].double() for name in TENSORS)
    base, dense = scale * weight.double(), _dense(up)
    return {
        "lora_A.weight": down.float(),
        "lora_B.weight": (base @ dense).float(),
        "lora_B.bias": (base @ (dense @ offset + up_bias)).float(),
    }


def _dense(up: Tensor) -> Tensor:
    """Return (width, hidden): row i of `up` in the columns of its group, zero elsewhere."""
    group, rows = up.shape[1], up.shape[0] // GROUPS
    dense = up.new_zeros(up.shape[0], GROUPS * group)
    for index, part in enumerate(up.chunk(GROUPS)):
        dense[index * rows : (index + 1) * rows, index * group : (index + 1) * group] = part
    return dense
