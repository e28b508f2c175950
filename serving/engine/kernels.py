"""Linear maps, attention and activations by the kernels that are fastest on this device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Linear:
    """y = x @ W^T + bias, with W laid out once for this CPU's bf16 matrix unit where there is one."""

    weight: Tensor
    bias: Tensor | None
    packed: bool

    @classmethod
    def of(cls, linear: nn.Linear) -> Linear:
        weight, bias = linear.weight.detach(), linear.bias
        packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        if packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(weight, None if bias is None else bias.detach(), packed)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return F.linear(x, self.weight, self.bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return residual + x @ W^T + bias, in one pass over the result where the matrix unit can."""
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
            return y
        return F.linear(x, self.weight, self.bias).add_(residual)


def explicit_attention_is_faster(weight: Tensor) -> bool:
    """Whether softmax(q k^T) v in three steps beats the fused kernel on this device.

    Measured at 65 to 577 tokens: in bf16 on CPUs without AMX by 1.7 to 3.3 times; with AMX, and in
    fp32, the fused kernel wins.
    """
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def activate(act: nn.Module, hidden: Tensor) -> Tensor:
    """Return act(hidden), in the memory of hidden where that is possible."""
    activated: Tensor = (
        torch.ops.aten.gelu_(hidden, approximate=act.approximate) if type(act) is nn.GELU else act(hidden)
    )
    return activated
