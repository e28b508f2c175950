"""timm's transformer block restated, so that each row of a batch may bring its own forms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.adapter_ops import Linear, add_bottlenecks, bottlenecks_of, deltas_of, layer_norm, linear, norms_of
from store.weights.forms import Bottleneck, Forms


class ServedBlock:
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): timm's `Block` in eval mode, and what the tasks add."""

    def __init__(self, block: Block, path: str, grid: tuple[int, int]) -> None:
        self._block = block
        self._path = path
        self._grid = grid
        attn, mlp = block.attn, block.mlp
        self._qkv, self._proj = Linear.of(attn.qkv), Linear.of(attn.proj)
        self._fc1, self._fc2 = Linear.of(mlp.fc1), Linear.of(mlp.fc2)
        self._explicit = explicit_attention_is_faster(attn.qkv.weight)

    def __call__(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        """x (n, tokens, dim), row i belonging to tasks[i]; rows of one task, or of like forms, are best neighbours."""
        block, path = self._block, self._path
        normed = layer_norm(x, block.norm1, norms_of(tasks, f"{path}.norm1"))
        attended = self._attend(normed, tasks)
        beside = bottlenecks_of(tasks, f"{path}.attn")
        x = self._residual(x, normed, attended, block.ls1, self._proj, f"{path}.attn.proj", tasks, beside)
        normed = layer_norm(x, block.norm2, norms_of(tasks, f"{path}.norm2"))
        hidden = linear(normed, self._fc1, deltas_of(tasks, f"{path}.mlp.fc1"))
        hidden = block.mlp.norm(_activate(block.mlp.act, hidden))
        beside = bottlenecks_of(tasks, f"{path}.mlp")
        return self._residual(x, normed, hidden, block.ls2, self._fc2, f"{path}.mlp.fc2", tasks, beside)

    def _attend(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        attn = self._block.attn
        n, tokens, _ = x.shape
        qkv = linear(x, self._qkv, deltas_of(tasks, f"{self._path}.attn.qkv"))
        q, k, v = qkv.view(n, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if self._explicit:
            out = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        normed: Tensor = attn.norm(out.transpose(1, 2).reshape(n, tokens, attn.attn_dim))
        return normed

    def _residual(
        self,
        x: Tensor,
        normed: Tensor,
        hidden: Tensor,
        scale: nn.Module,
        last: Linear,
        path: str,
        tasks: Sequence[Forms],
        beside: Sequence[Bottleneck | None],
    ) -> Tensor:
        """x + scale(last(hidden)), and what the bottlenecks beside it add."""
        deltas = deltas_of(tasks, path)
        taken = {form.input for form in beside if form is not None}
        if isinstance(scale, nn.Identity) and "output" not in taken:
            output, out = None, linear(hidden, last, deltas, residual=x)
        else:
            output = scale(linear(hidden, last, deltas))
            out = output + x
        if not taken:
            return out
        inputs = {"normed": normed, "residual": x, "sum": out} | ({} if output is None else {"output": output})
        return add_bottlenecks(out, beside, inputs, self._grid)


def explicit_attention_is_faster(weight: Tensor) -> bool:
    """Whether softmax(q k^T) v in three steps beats the fused kernel on this device.

    Measured at 65 to 577 tokens: in bf16 on CPUs without AMX by 1.7 to 3.3 times; with AMX, and in
    fp32, the fused kernel wins.
    """
    return weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def _activate(act: nn.Module, hidden: Tensor) -> Tensor:
    """Return act(hidden), in the memory of hidden where that is possible."""
    activated: Tensor = (
        torch.ops.aten.gelu_(hidden, approximate=act.approximate) if type(act) is nn.GELU else act(hidden)
    )
    return activated
