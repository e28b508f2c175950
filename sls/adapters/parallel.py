"""A transformer block with adapters parallel to its attention and its MLP (He et al. 2022, arXiv 2110.04366)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from store.weights.forms import Input
from store.weights.supported import TimmModel
from store.weights.tokens import cut_before
from store.weights.trunk import blocks_of

Layer = Callable[[Tensor], Tensor]


class ParallelAdapterBlock(nn.Module):
    """x = x + f + p(v), f = ls1(attn(h)), h = norm1(x); then x = x + f + q(v), f = ls2(mlp(h)), h = norm2(x).

    v is h ("normed"), the old x ("residual"), f ("output") or x + f ("sum"). A missing p or q counts as zero. A Swin's
    block has no ls1 and ls2, attends within windows, and has its patches in rows and columns; p and q see them in one
    list, row by row.
    """

    def __init__(
        self, block: Block | SwinTransformerBlock, attn: nn.Module | None, mlp: nn.Module | None, takes: Input
    ) -> None:
        super().__init__()
        self.block, self.attn_adapter, self.mlp_adapter, self.takes = block, attn, mlp, takes
        cut_before(self, block)

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        h = block.norm1(x)
        x = self._add(x, h, block.drop_path1(self._attend(h)), self.attn_adapter)
        h = block.norm2(x)
        f = block.mlp(h)
        f = block.ls2(f) if isinstance(block, Block) else f
        return self._add(x, h, block.drop_path2(f), self.mlp_adapter)

    def _attend(self, h: Tensor) -> Tensor:
        block = self.block
        out: Tensor = block.ls1(block.attn(h)) if isinstance(block, Block) else block._attn(h)
        return out

    def _add(self, x: Tensor, h: Tensor, f: Tensor, adapter: Layer | None) -> Tensor:
        if adapter is None:
            return x + f
        v = x + f if self.takes == "sum" else {"normed": h, "residual": x, "output": f}[self.takes]
        tokens = v if v.ndim == 3 else v.flatten(1, 2)
        return x + f + adapter(tokens).view_as(x)


def insert_parallel(takes: Input) -> Callable[[TimmModel, Mapping[str, nn.Module]], None]:
    """Return a function that inserts adapters parallel to `attn` and `mlp` of blocks, by full path, with this input."""

    def insert(vit: TimmModel, adapters: Mapping[str, nn.Module]) -> None:
        for path, block in list(blocks_of(vit)):
            attn, mlp = adapters.get(f"{path}.attn"), adapters.get(f"{path}.mlp")
            if attn is not None or mlp is not None:
                vit.set_submodule(path, ParallelAdapterBlock(block, attn, mlp, takes))

    return insert
