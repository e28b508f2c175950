"""Muon (Jordan 2024): momentum, then an update whose singular values are all near 1; matrices of a shape together.

`torch.optim.Muon` runs matrix by matrix: some 1,700 launches for 48 matrices of this size, which take longer on a large
device than the step that they belong to. Here the matrices of each shape are one batch of a product.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of the quintic in Jordan's article


class Muon:
    def __init__(self, matrices: Iterable[nn.Parameter], *, weight_decay: float) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            by_shape[matrix.shape].append(matrix)
        self._groups = [(group, torch.zeros_like(torch.stack(group))) for group in by_shape.values()]
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Take a step at this rate, a scalar on the matrices' device, so that a captured step can be told another."""
        for matrices, momentum in self._groups:
            gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = orthogonalised(gradients.lerp(momentum, MOMENTUM))  # Nesterov's
            rows, columns = matrices[0].shape
            torch._foreach_mul_(matrices, 1 - lr * self._weight_decay)
            torch._foreach_sub_(matrices, list(updates * (lr * math.sqrt(max(1, rows / columns)))))


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix (n, rows, columns) near 1 by Newton's and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
