"""Linear maps and norms of rows of many tasks, each in launches whose shape the tasks do not change."""

from __future__ import annotations

from typing import cast

import torch
import triton
from torch import Tensor, nn

from serving.engine.cuda.pointer_tables import MAX_RANK, PLACES
from serving.engine.cuda.row_kernels import add_low_rank, row_layer_norm, scale_inputs, to_low_rank
from serving.engine.cuda.row_ops import Place, StaticRows
from serving.engine.kernels import Linear

TOKENS, WIDE = 32, 128
INPUTS = 64


class TritonRowOps:
    """The kernels of `row_kernels` on the first rows of static buffers."""

    def __init__(self, rows: StaticRows) -> None:
        self._rows = rows
        self._row_entries = rows.table[0].numel()
        self._widen = rows.x.device.type == "cpu" and rows.x.dtype == torch.bfloat16

    def linear(self, x: Tensor, base: Linear, place: Place, residual: Tensor | None = None) -> Tensor:
        table, low = self._table(place), self._rows.low
        assert x.is_contiguous(), "the kernels count on rows that lie one after the other"
        n, tokens, fan_in = x.shape
        blocks, row_entries = triton.cdiv(tokens, TOKENS), self._row_entries
        to_low_rank[(n, blocks)](
            table, x, low, tokens, fan_in, row_entries, MAX_RANK, WIDEN=self._widen, TOKENS=TOKENS, INPUTS=INPUTS
        )
        y = base(self._scaled(x, table) if place.rescaled else x)
        fan_out, into = y.shape[-1], y if residual is None else residual
        add_low_rank[(n, blocks, triton.cdiv(fan_out, WIDE))](
            table, low, y, into, tokens, fan_out, row_entries, MAX_RANK,
            RESIDUAL=residual is not None, WIDEN=self._widen, TOKENS=TOKENS, OUTPUTS=WIDE,
        )  # fmt: skip
        return into

    def layer_norm(self, x: Tensor, base: nn.Module, place: Place) -> Tensor:
        if not place.rescaled:
            return cast(Tensor, base(x))
        normed, (n, tokens, dim) = torch.empty_like(x), x.shape
        row_layer_norm[(n, tokens)](
            self._table(place), x, normed, tokens, dim, self._row_entries, cast(nn.LayerNorm, base).eps,
            DIM=triton.next_power_of_2(dim),
        )  # fmt: skip
        return normed

    def _scaled(self, x: Tensor, table: Tensor) -> Tensor:
        scaled, (n, tokens, fan_in) = torch.empty_like(x), x.shape
        width = 4 * WIDE
        grid = (n, tokens, triton.cdiv(fan_in, width))
        scale_inputs[grid](table, x, scaled, tokens, fan_in, self._row_entries, INPUTS=width)
        return scaled

    def _table(self, place: Place) -> Tensor:
        return self._rows.table[:, place.block, PLACES[place.name]]
