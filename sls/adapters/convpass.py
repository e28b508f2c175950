"""Convpass (Jie and Deng 2022, arXiv 2207.07039): a bottleneck with a convolution, parallel to attention and MLP."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import quick_gelu
from torch import Tensor, nn

from sls.adapters.custom import CustomMethod, width_of
from sls.adapters.parallel import insert_parallel
from store.adapters.methods.custom import CONVPASS, PARALLEL_SITES
from store.weights.supported import TimmModel
from store.weights.trunk import trunk_of

DROPOUT = 0.1


class Convpass(nn.Module):
    """y = s * up(act(conv(act(down(x))))), act(v) = v * sigmoid(1.702 v); x (n, prefix + height * width, dim).

    conv is 3 x 3 over the grid of patches; each prefix token (class token, registers) is a grid of one. Training
    applies dropout before `up`. The adapter starts at zero.
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
        hidden = quick_gelu(self.down(x))
        height, width = self.grid
        prefix, patches = hidden[:, : -height * width], hidden[:, -height * width :]
        # on a grid of one, a 3 x 3 convolution is its middle
        prefix = nn.functional.linear(prefix, self.conv.weight[:, :, 1, 1], self.conv.bias)
        patches = self.conv(patches.transpose(1, 2).reshape(len(x), -1, height, width)).flatten(2).transpose(1, 2)
        hidden = quick_gelu(torch.cat([prefix, patches], dim=1))
        out: Tensor = self.up(nn.functional.dropout(hidden, DROPOUT, self.training))
        return self.scale * out


def _make(vit: TimmModel, path: str, hidden: int, scale: float) -> nn.Module:
    return Convpass(width_of(vit, path), hidden, trunk_of(vit).grid(path), scale)


METHOD = CustomMethod(CONVPASS, PARALLEL_SITES, _make, insert_parallel("normed"))
