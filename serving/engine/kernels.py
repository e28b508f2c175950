"""Linear maps, attention and activations by the kernels that are fastest on this device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from store.weights.forms import Kept


@dataclass(frozen=True)
class Linear:
    """y = x @ W^T + bias, with W laid out once for this CPU's bf16 matrix unit where there is one."""

    weight: Tensor
    bias: Tensor | None
    packed: bool

    @classmethod
    def of(cls, linear: nn.Linear) -> Linear:
        return cls.make(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    @classmethod
    def make(cls, weight: Tensor, bias: Tensor | None) -> Linear:
        packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        if packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(weight, bias, packed)

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


@dataclass(frozen=True)
class JoinedLinear:
    """y = the parts' results side by side: q, k and v of the first heads, each a view of the backbone's weight."""

    parts: tuple[Linear, ...]

    @classmethod
    def of_heads(cls, qkv: nn.Linear, kept: Kept) -> JoinedLinear:
        weight = torch.unflatten(qkv.weight.detach(), 0, (3, kept.total, -1))[:, : kept.count]
        biases = [None] * 3 if qkv.bias is None else torch.unflatten(qkv.bias.detach(), 0, (3, kept.total, -1))
        parts = [
            Linear(part.flatten(0, 1), None if bias is None else bias[: kept.count].flatten(), packed=False)
            for part, bias in zip(weight, biases, strict=True)
        ]
        return cls(tuple(parts))

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return residual + self(x)."""
        return self(x).add_(residual)


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
