"""timm's transformer block restated, so that each row of a batch may bring its own forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.adapter_ops import deltas_of, layer_norm, linear, norms_of
from serving.engine.bottlenecks import add_bottlenecks, bottlenecks_of
from serving.engine.kernels import Linear, activate, explicit_attention_is_faster
from serving.engine.narrow_maps import BranchMaps, NarrowMaps, by_width, narrow_maps
from store.weights.forms import Forms, Kept


@dataclass(frozen=True)
class BranchOutput:
    """How attention or the MLP ends: its layer scale, and the paths that tasks adapt."""

    scale: nn.Module
    path: str
    bottlenecks: str


class ServedBlock:
    """x + ls1(attn(norm1(x))), then x + ls2(mlp(norm2(x))): timm's `Block` in eval mode, and what the tasks add.

    Attention has the heads, and the MLP the units, that a row's task keeps.
    """

    def __init__(
        self, block: Block | SwinTransformerBlock, path: str, grid: tuple[int, int], narrow: NarrowMaps
    ) -> None:
        self._block = block
        self._path = path
        self._grid = grid
        self._narrow = narrow
        attn, mlp = block.attn, block.mlp
        self._attn_maps = BranchMaps(Linear.of(attn.qkv), Linear.of(attn.proj))
        self._mlp_maps = BranchMaps(Linear.of(mlp.fc1), Linear.of(mlp.fc2))
        scales = (block.ls1, block.ls2) if isinstance(block, Block) else (nn.Identity(), nn.Identity())
        self._attn_output = BranchOutput(scales[0], f"{path}.attn.proj", f"{path}.attn")
        self._mlp_output = BranchOutput(scales[1], f"{path}.mlp.fc2", f"{path}.mlp")
        self._explicit = explicit_attention_is_faster(attn.qkv.weight)

    def __call__(self, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
        """x (n, tokens, dim), row i belonging to tasks[i]; rows of one task, or of like forms, are best neighbours."""
        x = by_width(self._add_attention, x, tasks, f"{self._path}.attn")
        return by_width(self._add_mlp, x, tasks, f"{self._path}.mlp")

    def _add_attention(self, x: Tensor, tasks: Sequence[Forms], kept: Kept | None) -> Tensor:
        block, path = self._block, f"{self._path}.attn"
        maps, heads = self._attn_maps, block.attn.num_heads
        if kept is not None:
            maps, heads = self._narrow.get((path, kept), lambda: _narrow_attention(block, kept)), kept.count
        normed = layer_norm(x, block.norm1, norms_of(tasks, f"{self._path}.norm1"))
        qkv = linear(self._arrange(normed), maps.first, deltas_of(tasks, f"{path}.qkv"))
        return self._add_branch(x, normed, self._attend(qkv, heads), maps.last, self._attn_output, tasks)

    def _add_mlp(self, x: Tensor, tasks: Sequence[Forms], kept: Kept | None) -> Tensor:
        block, path = self._block, f"{self._path}.mlp"
        maps = self._mlp_maps
        if kept is not None:
            maps = self._narrow.get((path, kept), lambda: _narrow_mlp(block, kept))
        normed = layer_norm(x, block.norm2, norms_of(tasks, f"{self._path}.norm2"))
        hidden = linear(normed, maps.first, deltas_of(tasks, f"{path}.fc1"))
        hidden = block.mlp.norm(activate(block.mlp.act, hidden))
        return self._add_branch(x, normed, hidden, maps.last, self._mlp_output, tasks)

    def _arrange(self, normed: Tensor) -> Tensor:
        """Return the tokens that qkv sees."""
        return normed

    def _attend(self, qkv: Tensor, heads: int) -> Tensor:
        attn = self._block.attn
        n, tokens, _ = qkv.shape
        q, k, v = qkv.view(n, tokens, 3, heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if self._explicit:
            out = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        normed: Tensor = attn.norm(out.transpose(1, 2).reshape(n, tokens, heads * attn.head_dim))
        return normed

    def _add_branch(
        self, x: Tensor, normed: Tensor, hidden: Tensor, last: Linear, end: BranchOutput, tasks: Sequence[Forms]
    ) -> Tensor:
        """x + scale(last(hidden)), and what the bottlenecks beside the branch add."""
        deltas, bottlenecks = deltas_of(tasks, end.path), bottlenecks_of(tasks, end.bottlenecks)
        taken = {form.input for form in bottlenecks if form is not None}
        if isinstance(end.scale, nn.Identity) and "output" not in taken:
            output, out = None, linear(hidden, last, deltas, residual=x)
        else:
            output = end.scale(linear(hidden, last, deltas))
            out = output + x
        if not taken:
            return out
        inputs = {"normed": normed, "residual": x, "sum": out} | ({} if output is None else {"output": output})
        return add_bottlenecks(out, bottlenecks, inputs, self._grid)


@dataclass(frozen=True)
class ServedBlocks:
    """Blocks that run one after the other, as they come."""

    each: Sequence[ServedBlock]

    def run(self, x: Tensor, tasks: Sequence[Forms], blocks: range) -> Tensor:
        """Run x (n, tokens, dim), row i belonging to tasks[i], through the blocks, counted from 0; x stays as it is."""
        for index in blocks:
            x = self.each[index](x, tasks)
        return x


def _narrow_attention(block: Block, kept: Kept) -> BranchMaps:
    return narrow_maps(block.attn.qkv, block.attn.proj, ("attn.qkv", "attn.proj"), kept)


def _narrow_mlp(block: Block, kept: Kept) -> BranchMaps:
    return narrow_maps(block.mlp.fc1, block.mlp.fc2, ("mlp.fc1", "mlp.fc2"), kept)
