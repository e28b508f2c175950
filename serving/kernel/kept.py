"""Which heads, units and tokens a task keeps of a block, as the kernel reads it: by slices of 32 numbers.

A slice of which nothing is kept is in no product and in none of the task's arrays. In the others, what is left out is
multiplied by zero, so a task pays for whole slices: the first units cost what they are, scattered ones nearly all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.kernel.buffers import round_up
from serving.kernel.shapes import check_kept
from serving.kernel.structs import MAPS
from serving.kernel.support import SLICE
from store.records.width import kept_places
from store.weights.forms import Delta, Forms, Kept
from store.weights.tokens import places_of

QKV, PROJ, FC1, FC2 = MAPS
Sides = Mapping[str, Literal["heads", "qkv", "proj", "hidden"]]
OUTPUTS: Sides = {QKV: "qkv", FC1: "hidden"}
INPUTS: Sides = {PROJ: "proj", FC2: "hidden"}


@dataclass(frozen=True)
class Slots:
    """The slices of which something is kept, one after the other in a task's arrays."""

    at: NDArray[np.int64]
    """The place of each slice, -1 where it has none."""
    kept: NDArray[np.int64]
    """The numbers that are kept, as the backbone counts them."""

    @classmethod
    def of(cls, kept: NDArray[np.int64], total: int) -> Slots:
        at = np.full(round_up(total, SLICE) // SLICE, -1, np.int64)
        slices = np.unique(kept // SLICE)
        at[slices] = np.arange(len(slices))
        return cls(at, kept)

    @property
    def total(self) -> int:
        """The numbers of these slices."""
        return int(self.at.max() + 1) * SLICE

    def spread(self, tensor: Tensor | None, dim: int, fill: float) -> Tensor | None:
        """Put a tensor's kept numbers at their places among the slices, `fill` elsewhere."""
        if tensor is None or tensor.shape[dim] == self.total:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = self.total
        places = torch.from_numpy(self.at[self.kept // SLICE] * SLICE + self.kept % SLICE)
        return torch.full(shape, fill, dtype=tensor.dtype).index_copy(dim, places, tensor)


@dataclass(frozen=True)
class BlockKept:
    """What a task keeps of a block; `sides` has what is not whole, `heads` the place of each head, or -1.

    `tokens` are those of the block before that stay, None where all do; `count` is how many tokens the block has.
    """

    sides: Mapping[str, Slots]
    heads: NDArray[np.int64] | None
    tokens: NDArray[np.int64] | None
    count: int

    def shape(self, name: str, out: int, in_: int) -> tuple[int, int]:
        """Return a linear map's (out, in) with what is kept alone."""
        if not self.sides:
            return out, in_
        outputs, inputs = self._sides(name)
        return out if outputs is None else len(outputs.kept), in_ if inputs is None else len(inputs.kept)

    def bias(self, name: str, whole: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map's bias by slices."""
        outputs, _ = self._sides(name)
        if outputs is None:
            return whole
        spread = outputs.spread(torch.from_numpy(whole[outputs.kept]), 0, 0.0)
        assert spread is not None
        return np.asarray(spread.numpy(), np.float32)

    def in_slices(self, name: str, delta: Delta | None, dtype: torch.dtype = torch.bfloat16) -> Delta | None:
        """Return a map's delta by slices; there is one where inputs have to be multiplied by zero."""
        if not self.sides:
            return delta
        outputs, inputs = self._sides(name)
        if inputs is not None:
            delta = delta or Delta()
            ones = None if inputs.total == len(inputs.kept) else torch.ones(1, 1, len(inputs.kept), dtype=dtype)
            scale = ones if delta.in_scale is None else delta.in_scale
            delta = replace(delta, a=inputs.spread(delta.a, 2, 0.0), in_scale=inputs.spread(scale, 2, 0.0))
        if outputs is not None and delta is not None:
            delta = replace(
                delta,
                b=outputs.spread(delta.b, 1, 0.0),
                bias=outputs.spread(delta.bias, 2, 0.0),
                out_scale=outputs.spread(delta.out_scale, 2, 0.0),
            )
        return delta

    def fields(self) -> list[NDArray[np.int64] | None]:
        """Return the arrays of a `Kept` of the C interface, and that of `Tokens`, None where all is kept."""
        return [
            self.heads,
            *(self.sides[side].at if side in self.sides else None for side in ("qkv", "proj", "hidden")),
            self.tokens,
        ]

    def _sides(self, name: str) -> tuple[Slots | None, Slots | None]:
        return self.sides.get(OUTPUTS.get(name, "")), self.sides.get(INPUTS.get(name, ""))


def kept_of_block(forms: Forms, block: int, *, heads: int, dim: int, units: int, prefix: int, tokens: int) -> BlockKept:
    """Raises `RefusedError` where a mask is empty or not one of the backbone's heads and units.

    Of an image's tokens, the first `prefix` are no patches.
    """
    sides: dict[str, Slots] = {}
    at = None
    attn, mlp = (forms.kept.get(f"blocks.{block}.{name}") for name in ("attn", "mlp"))
    if attn is not None:
        check_kept(f"blocks.{block}.attn", attn, heads)
        size, chosen = dim // heads, _places(attn)
        numbers = (chosen[:, None] * size + np.arange(size)).reshape(-1)
        sides["proj"] = Slots.of(numbers, dim)
        sides["qkv"] = Slots.of(np.concatenate([numbers + part * dim for part in range(3)]), 3 * dim)
        at = np.full(heads, -1, np.int64)
        at[chosen] = np.arange(len(chosen))
    if mlp is not None:
        check_kept(f"blocks.{block}.mlp", mlp, units)
        sides["hidden"] = Slots.of(_places(mlp), units)
    if forms.tokens is None:
        return BlockKept(sides, at, None, tokens)
    step = forms.tokens.steps.get(block)
    stay = None if step is None else places_of(step, prefix).numpy()
    return BlockKept(sides, at, stay, prefix + forms.tokens.patches_kept[block])


def _places(kept: Kept) -> NDArray[np.int64]:
    return np.array(kept_places(kept.mask), np.int64)
