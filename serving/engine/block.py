"""timm's transformer block restated, so that each row of a batch may bring its own forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.adapter_ops import deltas_of, layer_norm, linear, norms_of
from serving.engine.bottlenecks import add_bottlenecks, bottlenecks_of
from serving.engine.kernels import Linear, activate, explicit_attention_is_faster
from store.weights.forms import Forms


@dataclass(frozen=True)
class BranchOutput:
    """How attention or the MLP ends: its last linear map and layer scale, and the paths that tasks adapt."""

    last: Linear
    scale: nn.Module
    path: str
    bottlenecks: str


class ServedBlock:
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): timm's `Block` in eval mode, and what the tasks add."""

    def __init__(self, block: Block, path: str, grid: tuple[int, int]) -> None:
        self._block = block
        self._path = path
        self._grid = grid
        attn, mlp = block.attn, block.mlp
        self._qkv, self._fc1 = Linear.of(attn.qkv), Linear.of(mlp.fc1)
        self._attn_output = BranchOutput(Linear.of(attn.proj), block.ls1, f"{path}.attn.proj", f"{path}.attn")
        self._mlp_output = BranchOutput(Linear.of(mlp.fc2), block.ls2, f"{path}.mlp.fc2", f"{path}.mlp")
        self._explicit = explicit_attention_is_faster(attn.qkv.weight)

    def __call__(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        """x (n, tokens, dim), row i belonging to tasks[i]; rows of one task, or of like forms, are best neighbours."""
        block, path = self._block, self._path
        normed = layer_norm(x, block.norm1, norms_of(tasks, f"{path}.norm1"))
        x = self._add_branch(x, normed, self._attend(normed, tasks), self._attn_output, tasks)
        normed = layer_norm(x, block.norm2, norms_of(tasks, f"{path}.norm2"))
        hidden = linear(normed, self._fc1, deltas_of(tasks, f"{path}.mlp.fc1"))
        hidden = block.mlp.norm(activate(block.mlp.act, hidden))
        return self._add_branch(x, normed, hidden, self._mlp_output, tasks)

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

    def _add_branch(
        self, x: Tensor, normed: Tensor, hidden: Tensor, end: BranchOutput, tasks: Sequence[Forms]
    ) -> Tensor:
        """x + scale(last(hidden)), and what the bottlenecks beside the branch add."""
        deltas, bottlenecks = deltas_of(tasks, end.path), bottlenecks_of(tasks, end.bottlenecks)
        taken = {form.input for form in bottlenecks if form is not None}
        if isinstance(end.scale, nn.Identity) and "output" not in taken:
            output, out = None, linear(hidden, end.last, deltas, residual=x)
        else:
            output = end.scale(linear(hidden, end.last, deltas))
            out = output + x
        if not taken:
            return out
        inputs = {"normed": normed, "residual": x, "sum": out} | ({} if output is None else {"output": output})
        return add_bottlenecks(out, bottlenecks, inputs, self._grid)
