"""A task's weights as the kernel reads them: factors packed, biases joined with the backbone's, all in one piece."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serving.kernel.backbone import PackedBackbone
from serving.kernel.buffers import round_up
from serving.kernel.kept import BlockKept, kept_of_block
from serving.kernel.pieces import LANES, A, B, Layout, Piece, Written, sources_of
from serving.kernel.shapes import check_bottleneck, check_delta, check_norm, check_task, check_tokens
from serving.kernel.structs import (
    ACTIVATIONS,
    BOTTLENECK_FIELDS,
    BOTTLENECKS_AT,
    BRANCHES,
    DELTA_FIELDS,
    EXIT_ARRAYS,
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

RANKS = 32  # of one slice
NORM = ("weight", "bias")
NOT_FINITE = "a number of the task is infinite or NaN in bfloat16, and would reach other tasks: tune it again"


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
class TaskPlan:
    """A task but for its arrays, and how these are laid out: what tasks of one structure share."""

    task: PackedTask
    layout: Layout
    pieces: Sequence[Piece]

    def of(self, written: Written, labels: tuple[str, ...]) -> PackedTask:
        """Return the task whose arrays these are."""
        depth, *_, classes = self.task.exit
        return replace(
            self.task,
            labels=labels,
            forms=written.forms,
            forms_at=written.forms.ctypes.data,
            exit=(depth, *written.ends, classes),
            memory=written.memory,
        )


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
        self.pools = pools
        """Whether the kernel runs heads."""
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
        plan = self.plan(weights)
        written = plan.layout.write(self._library, plan.layout.calls(sources_of(plan.pieces)))
        if not isinstance(written, Written):
            raise RefusedError(NOT_FINITE)
        return plan.of(written, weights.labels)

    def plan(self, weights: TaskWeights) -> TaskPlan:
        """Lay a task out; raises what `pack` does of its shapes."""
        check_task(weights, self._blocks, self._dim)
        check_tokens(weights.forms, weights.depth, self._sizes["tokens"] - self._sizes["prefix"])
        table = np.zeros((weights.depth, FORMS_FIELDS), np.int64)
        pieces, slices, work = self._head(weights), 1, 0
        for block in range(weights.depth):
            units = self._widths["mlp.fc1"][0]
            kept = kept_of_block(weights.forms, block, dim=self._dim, units=units, **self._sizes)
            found, most = self._block(weights.forms, block, table[block], kept)
            pieces, slices, work = pieces + found, max(slices, most), work + self._work(kept) * kept.count
        norm = [self._packed.address(f"norm.{part}") if "norm.weight" in self._packed.places else 0 for part in NORM]
        task = PackedTask(
            depth=weights.depth,
            first_block=weights.first_block,
            rank=weights.rank,
            labels=weights.labels,
            slices=slices,
            forms=table,
            forms_at=0,
            exit=(weights.depth, *EXIT_ARRAYS * (0,), weights.head_weight.shape[0]),
            norm=None if self.pools else weights.forms.norms.get("norm"),
            head=() if self.pools else (weights.head_weight, weights.head_bias),
            memory=np.zeros(0, np.uint8),
            work=work,
            tokens=kept.count,
            backbone=self._packed,
        )
        return TaskPlan(task, Layout(pieces, table, [*norm, 0, 0]), pieces)

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
                pieces += self._delta(delta, block, column, kept)
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
            pieces += [] if places is None else [Piece.of_integers(places, block, column)]
        return pieces, -(-widest // RANKS)

    def _bias(self, block: int, name: str, kept: BlockKept) -> NDArray[np.float32]:
        """Return the backbone's own bias of what a task keeps, by slices."""
        return kept.bias(name, self._packed.floats(f"blocks.{block}.{name}.bias", self._widths[name][0]))

    def _head(self, weights: TaskWeights) -> list[Piece]:
        norm = weights.forms.norms.get("norm")
        pieces = [] if norm is None else self._norm(norm, -1, 0)
        return [*pieces, Piece.of_numbers(weights.head_weight, -1, 2), Piece.of_vector(weights.head_bias, -1, 3)]

    def _delta(self, delta: Delta, block: int, column: int, kept: BlockKept) -> list[Piece]:
        pieces = []
        if delta.a is not None and delta.b is not None:
            pieces = [
                Piece.of_factor(A, delta.a, block, column),
                Piece.of_factor(B, delta.b, block, column + 1),
            ]
        if delta.bias is not None or delta.out_scale is not None:
            scale = 1.0 if delta.out_scale is None else _float32(delta.out_scale)
            shift = 0.0 if delta.bias is None else _float32(delta.bias)
            base = self._bias(block, MAPS[column // DELTA_FIELDS], kept)
            pieces.append(Piece.of_floats(base * scale + shift, block, column + 3, SLICE))
        if delta.out_scale is not None:
            pieces.append(Piece.of_vector(delta.out_scale, block, column + 4, SLICE))
        if delta.in_scale is not None:
            pieces.append(Piece.of_vector(delta.in_scale, block, column + 5, SLICE))
        return pieces

    def _norm(self, norm: Norm, block: int, column: int) -> list[Piece]:
        return [Piece.of_vector(norm.weight, block, column), Piece.of_vector(norm.bias, block, column + 1)]

    def _bottleneck(self, form: Bottleneck, block: int, column: int) -> list[Piece]:
        pieces = [
            Piece.of_factor(A, form.down.T, block, column),
            Piece.of_vector(form.down_bias, block, column + 1),
            Piece.of_factor(B, form.up.T, block, column + 2),
            Piece.of_vector(form.up_bias, block, column + 3),
        ]
        if form.conv is not None:
            width = form.down.shape[1]
            taps = np.zeros((3, 3, width, round_up(width, LANES)), np.float32)
            taps[..., :width] = form.conv.permute(2, 3, 1, 0).float().numpy()
            pieces.append(Piece.of_floats(taps, block, column + 5))
        if form.conv_bias is not None:
            pieces.append(Piece.of_vector(form.conv_bias, block, column + 6))
        return pieces


def _float32(values: Tensor) -> NDArray[np.float32]:
    floats: NDArray[np.float32] = values.detach().float().reshape(-1).numpy()
    return floats
