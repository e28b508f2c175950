"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): tune the biases of the linear maps and norms in the blocks alone.

The difference to the backbone's bias is what is trained, decayed and stored: a fresh adapter is zero, and the shared
bias is never written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sls.adapters.custom import CustomMethod, insert_after, width_of
from store.adapters.methods.custom import BITFIT
from store.adapters.methods.spec import LINEAR, NORMS
from store.weights.supported import TimmModel


class Shift(nn.Module):
    """y = x + bias, x (…, width). It starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _make(vit: TimmModel, path: str, _hidden: int, _scale: float) -> nn.Module:
    return Shift(width_of(vit, path))


METHOD = CustomMethod(BITFIT, LINEAR + NORMS, _make, insert_after, hidden=False)
