"""Linear maps of rows of many tasks, each in launches whose shape the tasks do not change."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from serving.engine.cuda.pointer_tables import MAX_RANK, PLACES
from serving.engine.cuda.row_kernels import add_low_rank, norm_prologue, prologue
from serving.engine.cuda.row_ops import Place, StaticRows
from serving.engine.kernels import Linear

TOKENS, INPUTS = 16, 256  # of a program before the base product; one with a norm takes all inputs at once
TALL, WIDE = 64, 128  # tokens and outputs of a program of `add_low_rank`


class TritonRowOps:
    """The kernels of `row_kernels` on the first rows of static buffers, and the base product by cuBLAS.

    A result begins as all that is added to the base product, which cuBLAS then adds in its own epilogue: so what tasks
    add costs one pass that writes, and the base's result is never read again. Where a row scales its outputs the base
    product comes first.
    """

    def __init__(self, rows: StaticRows) -> None:
        self._rows = rows
        self._row_entries = rows.table[0].numel()
        self._widen = rows.x.device.type == "cpu" and rows.x.dtype == torch.bfloat16

    def linear(self, x: Tensor, base: Linear, place: Place, residual: Tensor | None = None) -> Tensor:
        assert x.is_contiguous(), "the kernels count on rows that lie one after the other"
        inputs = self._prologue(x, place)
        if place.scaled:
            y = base(inputs)
            return self._add(y, y if residual is None else residual, base, place, residual=residual is not None)
        into = x.new_empty(*x.shape[:2], len(base.weight)) if residual is None else residual
        self._add(into, into, base, place, residual=residual is not None)
        into.flatten(0, 1).addmm_(inputs.flatten(0, 1), base.weight.T)
        return into

    def _prologue(self, x: Tensor, place: Place) -> Tensor:
        """Return what the base map multiplies: in place, unless a norm is before it; write the low-rank results."""
        n, tokens, fan_in = x.shape
        grid, table = (n, triton.cdiv(tokens, TOKENS)), self._rows.table[:, place.block]
        maps, low = table[:, PLACES[place.name]], self._rows.low
        if place.norm is None:
            prologue[grid](
                maps, x, low, tokens, fan_in, self._row_entries, MAX_RANK,
                WIDEN=self._widen, TOKENS=TOKENS, INPUTS=INPUTS,
            )  # fmt: skip
            return x
        inputs, norms = torch.empty_like(x), table[:, PLACES[place.norm_name]]
        norm_prologue[grid](
            maps, norms, x, inputs, low, tokens, fan_in, self._row_entries, MAX_RANK, place.norm.eps,
            WIDEN=self._widen, TOKENS=TOKENS, DIM=triton.next_power_of_2(fan_in),
        )  # fmt: skip
        return inputs

    def _add(self, y: Tensor, into: Tensor, base: Linear, place: Place, *, residual: bool) -> Tensor:
        n, tokens, fan_out = into.shape
        add_low_rank[(n, triton.cdiv(tokens, TALL), triton.cdiv(fan_out, WIDE))](
            self._rows.table[:, place.block, PLACES[place.name]], self._rows.low, y, into,
            into if base.bias is None else base.bias, tokens, fan_out, self._row_entries, MAX_RANK,
            BASE=place.scaled, BIASED=base.bias is not None, RESIDUAL=residual,
            WIDEN=self._widen, TOKENS=TALL, OUTPUTS=WIDE,
        )  # fmt: skip
        return into
