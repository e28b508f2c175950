"""Linear maps and norms of the rows that lie in the static buffers: an interface, and its slow twin in torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from serving.engine import adapter_ops
from serving.engine.adapter_ops import deltas_of, norms_of
from serving.engine.cuda.pointer_tables import FIELDS, MAX_RANK, PLACES
from serving.engine.kernels import Linear
from store.weights.forms import Forms


@dataclass
class StaticRows:
    """Memory that stays where it is, of which a captured step uses the first rows: inputs, tables, low-rank results."""

    x: Tensor
    """(rows, tokens, dim), changed in place by each block."""
    table: Tensor
    """int64 (rows, blocks, places, fields)."""
    low: Tensor
    """(rows, tokens, MAX_RANK)."""
    forms: list[Forms] = field(default_factory=list)
    """The forms that the table stands for, row by row, for the twin."""

    @classmethod
    def make(cls, rows: int, tokens: int, weight: Tensor, blocks: int) -> StaticRows:
        """Make buffers of the dtype, the device and the width of a layer norm's weight."""
        return cls(
            weight.new_zeros(rows, tokens, len(weight)),
            weight.new_zeros(rows, blocks, len(PLACES), FIELDS, dtype=torch.int64),
            weight.new_zeros(rows, tokens, MAX_RANK),
        )


@dataclass(frozen=True)
class Place:
    """A linear map of one block, and the norm that its inputs go through first, if they do."""

    block: int
    name: str
    scaled: bool
    """Whether a row may scale the map's outputs."""
    norm: nn.LayerNorm | None = None

    @property
    def path(self) -> str:
        return f"blocks.{self.block}.{self.name}"

    @property
    def norm_name(self) -> str:
        """The norm that is before this map, if one is."""
        return "norm1" if self.name.startswith("attn") else "norm2"


class RowOps(Protocol):
    """What a captured block computes of its rows; it may read the tables, and must not wait for the device."""

    def linear(self, x: Tensor, base: Linear, place: Place, residual: Tensor | None = None) -> Tensor:
        """y[i] = out_scale_i * (W (in_scale_i * z[i]) + bias_W) + b_i (a_i z[i]) + bias_i (+ residual[i]).

        z[i] is x[i], or its norm where the place has one, by the weight and bias of the row's task if it brings them.
        The result may lie in the residual's memory. Where there is no norm, x may be written over.
        """
        ...


class TorchRowOps:
    """The slow twin: the torch path over the forms, which no graph can hold, as it reads them in Python."""

    def __init__(self, rows: StaticRows) -> None:
        self._rows = rows

    def linear(self, x: Tensor, base: Linear, place: Place, residual: Tensor | None = None) -> Tensor:
        tasks = self._rows.forms[: len(x)]
        if place.norm is not None:
            x = adapter_ops.layer_norm(x, place.norm, norms_of(tasks, f"blocks.{place.block}.{place.norm_name}"))
        return adapter_ops.linear(x, base, deltas_of(tasks, place.path), residual)
