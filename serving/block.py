"""timm's transformer block restated, so that each row of a batch may bring its own low-rank deltas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from store.forms import Delta, TaskWeights


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


class ServedBlock:
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): timm's `Block` in eval mode."""

    def __init__(self, block: Block, path: str) -> None:
        self._block = block
        self._path = path
        attn, mlp = block.attn, block.mlp
        self._qkv, self._proj = Linear.of(attn.qkv), Linear.of(attn.proj)
        self._fc1, self._fc2 = Linear.of(mlp.fc1), Linear.of(mlp.fc2)
        self._explicit = explicit_attention_is_faster(attn.qkv.weight)

    def __call__(self, x: Tensor, tasks: Sequence[TaskWeights]) -> Tensor:
        """x (n, tokens, dim), row i belonging to tasks[i], deepest first."""
        x = self._block.ls1(self._attend(self._block.norm1(x), tasks)).add_(x)
        hidden: Tensor = self._block.ls2(self._mlp(self._block.norm2(x), tasks)).add_(x)
        return hidden

    def _attend(self, x: Tensor, tasks: Sequence[TaskWeights]) -> Tensor:
        attn = self._block.attn
        n, tokens, _ = x.shape
        qkv = add_deltas(x, self._qkv(x), tasks, f"{self._path}.attn.qkv")
        q, k, v = qkv.view(n, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if self._explicit:
            out = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        out = attn.norm(out.transpose(1, 2).reshape(n, tokens, attn.attn_dim))
        return add_deltas(out, self._proj(out), tasks, f"{self._path}.attn.proj")

    def _mlp(self, x: Tensor, tasks: Sequence[TaskWeights]) -> Tensor:
        mlp = self._block.mlp
        hidden = mlp.norm(mlp.act(add_deltas(x, self._fc1(x), tasks, f"{self._path}.mlp.fc1")))
        return add_deltas(hidden, self._fc2(hidden), tasks, f"{self._path}.mlp.fc2")


def add_deltas(x: Tensor, y: Tensor, tasks: Sequence[TaskWeights], path: str) -> Tensor:
    """y[i] += (x[i] @ a_i) @ b_i + bias_i  # in place

    x (n, T, in), y (n, T, out), a_i (1, in, r_i), b_i (1, r_i, out), bias_i (1, 1, out) or none.
    """
    rows = [task.forms.deltas.get(path) for task in tasks]
    found = [row for row in rows if row is not None]
    if not found:
        return y
    if len(rows) == 1:
        a, b = found[0].a, found[0].b
    elif len(found) == len(rows) and len({row.rank for row in found}) == 1:
        a, b = torch.cat([row.a for row in found]), torch.cat([row.b for row in found])
    else:
        a, b = _pad(rows, max(row.rank for row in found), x, y)
    y.baddbmm_(torch.bmm(x, a), b)
    for index, row in enumerate(rows):
        if row is not None and row.bias is not None:
            y[index] += row.bias[0]
    return y


def explicit_attention_is_faster(weight: Tensor) -> bool:
    """Whether softmax(q k^T) v in three steps beats the fused kernel on this device.

    Measured at 65 to 577 tokens: in bf16 on CPUs without AMX by 1.7 to 3.3 times; with AMX, and in
    fp32, the fused kernel wins.
    """
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def _pad(rows: Sequence[Delta | None], rank: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    a = x.new_zeros(len(rows), x.shape[2], rank)
    b = x.new_zeros(len(rows), rank, y.shape[2])
    for index, row in enumerate(rows):
        if row is not None:
            a[index, :, : row.rank] = row.a[0]
            b[index, : row.rank] = row.b[0]
    return a, b
