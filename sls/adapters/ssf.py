"""SSF (Lian et al. 2022, arXiv 2210.08823): scale and shift what the linear maps and norms of the blocks give.

The patch embedding, which all tasks share, stays as it is, and so does the last norm, where the head says the same.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sls.adapters.custom import OwnMethod, insert_after, width_of
from store.adapters.methods.custom import SSF
from store.adapters.methods.spec import LINEAR, NORMS


class ScaleShift(nn.Module):
    """y = scale * x + shift, x (…, width).

    It starts as the identity, where the authors' code draws both with a standard deviation of 0.02.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def _make(vit: VisionTransformer, path: str, _hidden: int, _scale: float) -> nn.Module:
    return ScaleShift(width_of(vit, path))


METHOD = OwnMethod(SSF, LINEAR + NORMS, _make, insert_after, hidden=False)
