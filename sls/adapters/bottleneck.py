"""Bottleneck adapters as their papers define them: AdaptFormer, Houlsby's and Adapter+."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from sls.adapters.custom import CustomMethod, width_of
from sls.adapters.parallel import insert_parallel
from store.adapters.methods.custom import BOTTLENECK, PRESETS
from store.weights.supported import TimmModel

STD = 0.01


class Adapter(nn.Module):
    """y = scale * up(act(down(x))), x (…, dim). Training applies dropout before `up` and stochastic depth after it.

    The scale is a fixed number, a parameter with one value for each channel, or None.
    """

    scale: Tensor | None

    def __init__(
        self, dim: int, hidden: int, *, act: nn.Module, scale: Tensor | None, dropout: float = 0, drop_path: float = 0
    ) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Linear(dim, hidden), nn.Linear(hidden, dim), act
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)
        if isinstance(scale, nn.Parameter):
            self.scale = scale
        else:
            self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop_path(self.up(self.dropout(self.act(self.down(x)))))
        return out if self.scale is None else self.scale * out


def adaptformer(vit: TimmModel, path: str, hidden: int, scale: float) -> Adapter:
    """Make an adapter that starts at zero, with 0.1 times the configured scale (Chen et al. 2022, arXiv 2205.13535).

    Its input is the residual, as in the authors' code with its norm switched off.
    """
    adapter = Adapter(width_of(vit, path), hidden, act=nn.ReLU(), scale=torch.tensor(0.1 * scale), dropout=0.1)
    nn.init.kaiming_uniform_(adapter.down.weight, a=math.sqrt(5))
    for zeros in (adapter.down.bias, adapter.up.weight, adapter.up.bias):
        nn.init.zeros_(zeros)
    return adapter


def houlsby(vit: TimmModel, path: str, hidden: int, _scale: float) -> Adapter:
    """Make an adapter that starts near zero (Houlsby et al. 2019, arXiv 1902.00751, sections 2.1 and 3.6)."""
    return _near_zero(Adapter(width_of(vit, path), hidden, act=nn.GELU(), scale=None))


def adapter_plus(vit: TimmModel, path: str, hidden: int, scale: float) -> Adapter:
    """Make an adapter near zero that learns a scale for each channel (Steitz and Roth 2024, arXiv 2406.06820)."""
    scales = nn.Parameter(torch.full((width_of(vit, path),), scale))
    return _near_zero(Adapter(width_of(vit, path), hidden, act=nn.GELU(), scale=scales, drop_path=0.1))


def load(vit: TimmModel, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> TimmModel:
    """Insert the adapters of a checked folder, of any preset, into the blocks that the model has."""
    return METHODS[str(config["preset"])].load(vit, config, tensors)


def _near_zero(adapter: Adapter) -> Adapter:
    """Draw the weights from a normal distribution, std 0.01, truncated at two of them; set the biases to zero."""
    for layer in (adapter.down, adapter.up):
        nn.init.trunc_normal_(layer.weight, std=STD, a=-2 * STD, b=2 * STD)
        nn.init.zeros_(layer.bias)
    return adapter


def _method(name: str, make: Callable[[TimmModel, str, int, float], Adapter]) -> CustomMethod:
    preset = PRESETS[name]
    return CustomMethod(BOTTLENECK, preset.sites, make, insert_parallel(preset.input), options={"preset": name})


_MAKE = {"adaptformer": adaptformer, "houlsby": houlsby, "adapter+": adapter_plus}
METHODS: Mapping[str, CustomMethod] = MappingProxyType({name: _method(name, make) for name, make in _MAKE.items()})
"""By preset."""
