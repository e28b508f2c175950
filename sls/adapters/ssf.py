"""SSF (Lian et al. 2022, arXiv 2210.08823): scale and shift the outputs of the blocks' linear maps and norms.

The patch embedding is unchanged, as all tasks share it; so is the last norm, as the head can express the same map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sls.adapters.custom import CustomMethod, insert_after, width_of
from store.adapters.methods.custom import SSF
from store.adapters.methods.spec import LINEAR, NORMS
from store.weights.supported import TimmModel


class ScaleShift(nn.Module):
    """y = scale * x + shift, x (…, width).

    It starts as the identity; the authors' code draws both with a standard deviation of 0.02.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def _make(vit: TimmModel, path: str, _hidden: int, _scale: float) -> nn.Module:
    return ScaleShift(width_of(vit, path))


METHOD = CustomMethod(SSF, LINEAR + NORMS, _make, insert_after, hidden=False)
