"""A task's weights as the kernel reads them: factors packed, biases joined with the backbone's, all in one piece."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.kernel.backbone import BF16_NBYTES, FLOAT_NBYTES, PackedBackbone
from serving.kernel.buffers import Plan, aligned, padded, round_up
from serving.kernel.kept import BlockKept, kept_of_block
from serving.kernel.shapes import check_bottleneck, check_delta, check_norm, check_task, check_tokens
from serving.kernel.structs import (
    ACTIVATIONS,
    BOTTLENECK_FIELDS,
    BOTTLENECKS_AT,
    BRANCHES,
    DELTA_FIELDS,
    FORMS_FIELDS,
    INPUTS,
    KEPT_AT,
    MAPS,
    NORM_FIELDS,
    NORMS,
    NORMS_AT,
    TOKEN_COUNT_AT,
)
from serving.kernel.support import SLICE
from store.errors import RefusedError
from store.weights.forms import Bottleneck, Delta, Forms, Norm, TaskWeights

BEYOND = 1024  # numbers after a factor that its last tile reads
LANES = 16  # floats that the kernel reads at a time
RANKS = 32  # of one slice


@dataclass(frozen=True, eq=False)
class PackedTask:
    """All that the kernel needs of one version; `forms` has the integers of a block's `Forms` in each row."""

    depth: int
    first_block: int
    rank: int
    labels: tuple[str, ...]
    slices: int
    """Of 32 ranks: the most that any of its forms has."""
    forms: NDArray[np.int64]
    forms_at: int
    """Their address."""
    exit: tuple[int, ...]
    """The integers of an `Exit`, but for the address of the logits."""
    norm: Norm | None
    """In place of the backbone's last norm, and the head; for a backbone whose features torch pools, else empty."""
    head: tuple[Tensor, ...]
    memory: NDArray[np.uint8] = field(repr=False)
    """All arrays to which `forms` and `exit` point but for the last norm, which may be the backbone's."""
    work: int
    """Slices of 32 numbers that its products make or sum over, times tokens, in all blocks: how wide it is."""
    tokens: int
    """How many tokens its rows have at its end."""
    backbone: PackedBackbone = field(repr=False)
    """For which it was packed: the kernel of another reads other widths."""

    @property
    def classes(self) -> int:
        """How many logits the kernel writes."""
        return self.exit[-1]

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes + self.forms.nbytes + sum(tensor.nbytes for tensor in self.head)


@dataclass(frozen=True)
class Piece:
    """An array that is to be written, and the place of its address in the table; a negative block is the exit's."""

    block: int
    column: int
    nbytes: int
    write: Callable[[int], object]


class TaskPacker:
    """Packs tasks of one backbone; several threads may use it at a time."""

    def __init__(
        self,
        library: ctypes.CDLL,
        packed: PackedBackbone,
        widths: Mapping[str, tuple[int, int]],
        blocks: int,
        *,
        sizes: Mapping[str, int],
        pools: bool,
    ) -> None:
        """`widths` are (out, in) of a block's linear maps, by their names in `MAPS`; `pools`: the kernel runs heads.

        `sizes` are how many heads and tokens there are, and how many of these are no patches: the `prefix`.
        """
        self._pools = pools
        self._library = library
        self._packed = packed
        self._widths = widths
        self._blocks = blocks
        self._sizes = sizes
        self._dim = widths[MAPS[0]][1]

    def pack(self, weights: TaskWeights) -> PackedTask:
        """Pack a task of bfloat16 tensors on the CPU.

        Raises `RefusedError` where a number is not finite, since it would reach other rows of a batch, where a rank is
        above `MOST_RANK`, or where a shape is not the backbone's.
        """
        check_task(weights, self._blocks, self._dim)
        check_tokens(weights.forms, weights.depth, self._sizes["tokens"] - self._sizes["prefix"])
        table = np.zeros((weights.depth, FORMS_FIELDS), np.int64)
        pieces, slices, work = self._head(weights), 1, 0
        for block in range(weights.depth):
            units = self._widths["mlp.fc1"][0]
            kept = kept_of_block(weights.forms, block, dim=self._dim, units=units, **self._sizes)
            found, most = self._block(weights.forms, block, table[block], kept)
            pieces, slices, work = pieces + found, max(slices, most), work + self._work(kept) * kept.count
        exit_, memory = self._written(weights, pieces, table)
        return PackedTask(
            depth=weights.depth,
            first_block=weights.first_block,
            rank=weights.rank,
            labels=weights.labels,
            slices=slices,
            forms=table,
            forms_at=table.ctypes.data,
            exit=exit_,
            norm=None if self._pools else weights.forms.norms.get("norm"),
            head=() if self._pools else (weights.head_weight, weights.head_bias),
            memory=memory,
            work=work,
            tokens=kept.count,
            backbone=self._packed,
        )

    def _work(self, kept: BlockKept) -> int:
        sizes = (kept.shape(name, *self._widths[name]) for name in MAPS)
        return sum(round_up(out * in_ // self._dim, SLICE) // SLICE for out, in_ in sizes)

    def _block(self, forms: Forms, block: int, fields: NDArray[np.int64], kept: BlockKept) -> tuple[list[Piece], int]:
        """Set the sizes of a block's forms in `fields`; return its arrays, and the slices of its widest form."""
        pieces: list[Piece] = []
        widest = 0
        for index, name in enumerate(MAPS):
            if (given := forms.deltas.get(f"blocks.{block}.{name}")) is not None:
                check_delta(f"blocks.{block}.{name}", given, *kept.shape(name, *self._widths[name]))
            if (delta := kept.in_slices(name, given)) is not None:
                column = index * DELTA_FIELDS
                fields[column + 2] = delta.rank
                widest = max(widest, delta.rank)
                pieces += self._delta(delta, block, column, self._bias(block, name, kept))
        for index, name in enumerate(NORMS):
            if (norm := forms.norms.get(f"blocks.{block}.{name}")) is not None:
                check_norm(f"blocks.{block}.{name}", norm, self._dim)
                pieces += self._norm(norm, block, NORMS_AT + index * NORM_FIELDS)
        for index, name in enumerate(BRANCHES):
            if (form := forms.bottlenecks.get(f"blocks.{block}.{name}")) is not None:
                check_bottleneck(f"blocks.{block}.{name}", form, self._dim)
                column, width = BOTTLENECKS_AT + index * BOTTLENECK_FIELDS, form.down.shape[1]
                fields[column + 4] = width
                fields[column + 7 : column + 9] = INPUTS.index(form.input), ACTIVATIONS.index(form.activation)
                widest = max(widest, width)
                pieces += self._bottleneck(form, block, column)
        fields[TOKEN_COUNT_AT] = kept.count
        for column, places in enumerate(kept.fields(), KEPT_AT):
            pieces += [] if places is None else [_integers(places, block, column)]
        return pieces, -(-widest // RANKS)

    def _bias(self, block: int, name: str, kept: BlockKept) -> NDArray[np.float32]:
        """Return the backbone's own bias of what a task keeps, by slices."""
        return kept.bias(name, self._packed.floats(f"blocks.{block}.{name}.bias", self._widths[name][0]))

    def _written(
        self, weights: TaskWeights, pieces: list[Piece], table: NDArray[np.int64]
    ) -> tuple[tuple[int, ...], NDArray[np.uint8]]:
        plan = Plan()
        places = [plan.take(piece.nbytes) for piece in pieces]
        memory = aligned(plan.nbytes)
        ends = [0, 0, 0, 0]
        if "norm.weight" in self._packed.places:
            ends[:2] = self._packed.address("norm.weight"), self._packed.address("norm.bias")
        for piece, place in zip(pieces, places, strict=True):
            address = memory.ctypes.data + place
            piece.write(address)
            if piece.block < 0:
                ends[piece.column] = address
            else:
                table[piece.block, piece.column] = address
        return (weights.depth, *ends, weights.head_weight.shape[0]), memory

    def _head(self, weights: TaskWeights) -> list[Piece]:
        norm = weights.forms.norms.get("norm")
        pieces = [] if norm is None else self._norm(norm, -1, 0)
        return [*pieces, self._numbers(weights.head_weight, -1, 2), _floats(weights.head_bias, -1, 3)]

    def _delta(self, delta: Delta, block: int, column: int, base: NDArray[np.float32]) -> list[Piece]:
        pieces = []
        if delta.a is not None and delta.b is not None:
            pieces += [self._a(delta.a[0], block, column), self._b(delta.b[0], block, column + 1)]
        if delta.bias is not None or delta.out_scale is not None:
            scale = 1.0 if delta.out_scale is None else _float32(delta.out_scale)
            shift = 0.0 if delta.bias is None else _float32(delta.bias)
            pieces.append(_array(base * scale + shift, block, column + 3, SLICE))
        if delta.out_scale is not None:
            pieces.append(_floats(delta.out_scale, block, column + 4, SLICE))
        if delta.in_scale is not None:
            pieces.append(_floats(delta.in_scale, block, column + 5, SLICE))
        return pieces

    def _norm(self, norm: Norm, block: int, column: int) -> list[Piece]:
        return [_floats(norm.weight, block, column), _floats(norm.bias, block, column + 1)]

    def _bottleneck(self, form: Bottleneck, block: int, column: int) -> list[Piece]:
        pieces = [
            self._a(form.down.T.contiguous(), block, column),
            _floats(form.down_bias, block, column + 1),
            self._b(form.up.T.contiguous(), block, column + 2),
            _floats(form.up_bias, block, column + 3),
        ]
        if form.conv is not None:
            width = form.down.shape[1]
            taps = np.zeros((3, 3, width, round_up(width, LANES)), np.float32)
            taps[..., :width] = form.conv.permute(2, 3, 1, 0).float().numpy()
            pieces.append(_array(taps, block, column + 5))
        if form.conv_bias is not None:
            pieces.append(_floats(form.conv_bias, block, column + 6))
        return pieces

    def _a(self, factor: Tensor, block: int, column: int) -> Piece:
        """factor (rank, in)"""
        rank, in_ = factor.shape
        return self._factor(factor, self._library.onetrunk_pack_a, rank, in_, block, column)

    def _b(self, factor: Tensor, block: int, column: int) -> Piece:
        """factor (out, rank)"""
        out, rank = factor.shape
        return self._factor(factor, self._library.onetrunk_pack_b, rank, out, block, column)

    def _factor(
        self,
        factor: Tensor,
        pack: Callable[[int, int, int, int], object],
        rank: int,
        width: int,
        block: int,
        column: int,
    ) -> Piece:
        factor = self._checked(factor)
        nbytes = (round_up(width, SLICE) * round_up(rank, 2) + BEYOND) * BF16_NBYTES
        return Piece(block, column, nbytes, lambda to: pack(factor.data_ptr(), rank, width, to))

    def _numbers(self, values: Tensor, block: int, column: int) -> Piece:
        values = self._checked(values)
        return Piece(block, column, values.nbytes, lambda to: ctypes.memmove(to, values.data_ptr(), values.nbytes))

    def _checked(self, values: Tensor) -> Tensor:
        values = values.to(torch.bfloat16).contiguous()
        if not self._library.onetrunk_all_finite(values.data_ptr(), values.numel()):
            raise _not_finite()
        return values


def _floats(values: Tensor, block: int, column: int, multiple: int = LANES) -> Piece:
    return _array(_float32(values), block, column, multiple)


def _array(values: NDArray[np.float32], block: int, column: int, multiple: int = LANES) -> Piece:
    """A float32 array with zeros up to a multiple, as the kernel reads it."""
    if not np.isfinite(values).all():
        raise _not_finite()
    whole = padded(values, round_up(values.size, multiple))
    return Piece(
        block, column, whole.size * FLOAT_NBYTES, lambda to: ctypes.memmove(to, whole.ctypes.data, whole.nbytes)
    )


def _integers(values: NDArray[np.int64], block: int, column: int) -> Piece:
    return Piece(block, column, values.nbytes, lambda to: ctypes.memmove(to, values.ctypes.data, values.nbytes))


def _float32(values: Tensor) -> NDArray[np.float32]:
    floats: NDArray[np.float32] = values.detach().float().reshape(-1).numpy()
    return floats


def _not_finite() -> RefusedError:
    return RefusedError(
        "a number of the task is infinite or NaN in bfloat16, and would reach other tasks: tune it again"
    )
