"""timm's transformer block on rows in static buffers, without a decision that depends on the rows' tasks."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.cuda.row_ops import Place, RowOps
from serving.engine.kernels import Linear, activate


class CapturedBlock:
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): as `ServedBlock`, for rows without bottlenecks."""

    def __init__(self, block: Block, index: int, ops: RowOps) -> None:
        self._block = block
        self._index = index
        self._ops = ops
        attn, mlp = block.attn, block.mlp
        self._maps = {
            "attn.qkv": _linear(attn.qkv), "attn.proj": _linear(attn.proj),
            "mlp.fc1": _linear(mlp.fc1), "mlp.fc2": _linear(mlp.fc2),
        }  # fmt: skip

    def __call__(self, x: Tensor, *, scaled: bool) -> Tensor:
        """x (n, tokens, dim), the first rows of the static buffer, which may be changed; `scaled` as in `Place`."""
        mlp = self._block.mlp
        x = self._add(x, self._attend(x, scaled=scaled), "attn.proj", scaled=scaled)
        hidden = self._linear(x, Place(self._index, "mlp.fc1", scaled, norm=self._block.norm2))
        return self._add(x, mlp.norm(activate(mlp.act, hidden)), "mlp.fc2", scaled=scaled)

    def _attend(self, x: Tensor, *, scaled: bool) -> Tensor:
        attn = self._block.attn
        n, tokens, _ = x.shape
        qkv = self._linear(x, Place(self._index, "attn.qkv", scaled, norm=self._block.norm1))
        q, k, v = qkv.view(n, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        normed: Tensor = attn.norm(out.transpose(1, 2).reshape(n, tokens, attn.attn_dim))
        return normed

    def _add(self, x: Tensor, hidden: Tensor, name: str, *, scaled: bool) -> Tensor:
        """x + scale(last(hidden)), in one pass over the result where there is no layer scale."""
        scale = self._block.ls1 if name == "attn.proj" else self._block.ls2
        place = Place(self._index, name, scaled)
        if isinstance(scale, nn.Identity):
            return self._linear(hidden, place, residual=x)
        return x.add_(scale(self._linear(hidden, place)))

    def _linear(self, x: Tensor, place: Place, residual: Tensor | None = None) -> Tensor:
        return self._ops.linear(x, self._maps[place.name], place, residual)


def _linear(linear: nn.Linear) -> Linear:
    """Return the map with its weight as it is: not laid out for a CPU."""
    return Linear(linear.weight.detach(), None if linear.bias is None else linear.bias.detach(), packed=False)
