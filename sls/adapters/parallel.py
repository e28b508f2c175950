"""A transformer block with adapters parallel to its attention and its MLP (He et al. 2022, arXiv 2110.04366)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from store.weights.forms import Input

Layer = Callable[[Tensor], Tensor]


class ParallelAdapterBlock(nn.Module):
    """x = x + f + p(v), f = ls1(attn(h)), h = norm1(x); then x = x + f + q(v), f = ls2(mlp(h)), h = norm2(x).

    v is h ("normed"), the old x ("residual"), f ("output") or x + f ("sum"). A missing p or q counts as zero.
    """

    def __init__(self, block: Block, attn: nn.Module | None, mlp: nn.Module | None, takes: Input) -> None:
        super().__init__()
        self.block, self.attn_adapter, self.mlp_adapter, self.takes = block, attn, mlp, takes

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        h = block.norm1(x)
        x = self._add(x, h, block.drop_path1(block.ls1(block.attn(h))), self.attn_adapter)
        h = block.norm2(x)
        return self._add(x, h, block.drop_path2(block.ls2(block.mlp(h))), self.mlp_adapter)

    def _add(self, x: Tensor, h: Tensor, f: Tensor, adapter: Layer | None) -> Tensor:
        if adapter is None:
            return x + f
        v = x + f if self.takes == "sum" else {"normed": h, "residual": x, "output": f}[self.takes]
        return x + f + adapter(v)


def insert_parallel(takes: Input) -> Callable[[VisionTransformer, Mapping[str, nn.Module]], None]:
    """Return a function that inserts adapters parallel to `blocks.N.attn` and `blocks.N.mlp`, with this input."""

    def insert(vit: VisionTransformer, adapters: Mapping[str, nn.Module]) -> None:
        for index, block in enumerate(vit.blocks):
            attn, mlp = adapters.get(f"blocks.{index}.attn"), adapters.get(f"blocks.{index}.mlp")
            if attn is not None or mlp is not None:
                vit.blocks[index] = ParallelAdapterBlock(block, attn, mlp, takes)

    return insert
