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
            "attn.qkv": Linear.of(attn.qkv), "attn.proj": Linear.of(attn.proj),
            "mlp.fc1": Linear.of(mlp.fc1), "mlp.fc2": Linear.of(mlp.fc2),
        }  # fmt: skip

    def __call__(self, x: Tensor, *, rescaled: bool) -> Tensor:
        """x (n, tokens, dim), the first rows of the static buffer, which may be changed; `rescaled` as in `Place`."""
        block = self._block
        normed = self._norm(x, block.norm1, "norm1", rescaled=rescaled)
        x = self._add(x, self._attend(normed, rescaled=rescaled), "attn.proj", rescaled=rescaled)
        normed = self._norm(x, block.norm2, "norm2", rescaled=rescaled)
        hidden = block.mlp.norm(activate(block.mlp.act, self._linear(normed, "mlp.fc1", rescaled=rescaled)))
        return self._add(x, hidden, "mlp.fc2", rescaled=rescaled)

    def _attend(self, x: Tensor, *, rescaled: bool) -> Tensor:
        attn = self._block.attn
        n, tokens, _ = x.shape
        qkv = self._linear(x, "attn.qkv", rescaled=rescaled)
        q, k, v = qkv.view(n, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v)
        normed: Tensor = attn.norm(out.transpose(1, 2).reshape(n, tokens, attn.attn_dim))
        return normed

    def _add(self, x: Tensor, hidden: Tensor, name: str, *, rescaled: bool) -> Tensor:
        """x + scale(last(hidden)), in one pass over the result where there is no layer scale."""
        scale = self._block.ls1 if name == "attn.proj" else self._block.ls2
        place = Place(self._index, name, rescaled)
        if isinstance(scale, nn.Identity):
            return self._ops.linear(hidden, self._maps[name], place, residual=x)
        return x.add_(scale(self._ops.linear(hidden, self._maps[name], place)))

    def _linear(self, x: Tensor, name: str, *, rescaled: bool) -> Tensor:
        return self._ops.linear(x, self._maps[name], Place(self._index, name, rescaled))

    def _norm(self, x: Tensor, base: nn.Module, name: str, *, rescaled: bool) -> Tensor:
        return self._ops.layer_norm(x, base, Place(self._index, name, rescaled))
