"""A task's arrays: what each is, where it lies in the task's one piece of memory, and the one call that writes all.

A factor's last tile reads numbers beyond it, which count for nothing but must be finite. So all factors lie one after
the other, each followed by the next, with zeros after the last one alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.kernel.backbone import BF16_NBYTES, FLOAT_NBYTES
from serving.kernel.buffers import Plan, aligned, round_up
from serving.kernel.structs import EXIT_ARRAYS, FORMS_FIELDS
from serving.kernel.support import SLICE

BEYOND_NBYTES = 2048  # after the last factor: the most that a tile reads
LANES = 16  # floats that the kernel reads at a time
A, B, NUMBERS, FLOATS, ROUNDED, INTEGERS = range(6)
"""How an array is packed, as `PieceKind` of the C interface."""
BFLOAT16, FLOAT32, FLOAT16 = range(3)
"""How its numbers are where they come from, as `Numbers` there."""
READ = {torch.bfloat16: BFLOAT16, torch.float32: FLOAT32, torch.float16: FLOAT16}
PIECE = np.dtype(
    [
        ("kind", "i8"),
        ("from_", "i8"),
        ("numbers", "i8"),
        ("rows", "i8"),
        ("columns", "i8"),
        ("scale", "f8"),
        ("to", "i8"),
    ]
)


@dataclass(frozen=True)
class Piece:
    """An array that is to be written, and the place of its address in the table; a negative block is the exit's."""

    block: int
    column: int
    kind: int
    rows: int
    columns: int
    numbers: Tensor | NDArray[np.float32] | NDArray[np.int64]
    """Contiguous, in bfloat16 or float32."""

    @classmethod
    def of_factor(cls, kind: int, factor: Tensor, block: int, column: int) -> Piece:
        """A (rank, in) or B (out, rank); an axis before them is ignored."""
        rows, columns = factor.shape[-2:]
        return cls(block, column, kind, rows, columns, _in_bfloat16(factor))

    @classmethod
    def of_numbers(cls, values: Tensor, block: int, column: int) -> Piece:
        return cls(block, column, NUMBERS, values.numel(), 1, _in_bfloat16(values))

    @classmethod
    def of_vector(cls, values: Tensor, block: int, column: int, multiple: int = LANES) -> Piece:
        """Numbers that the kernel reads in float32, with zeros up to a multiple."""
        values = values.detach().contiguous()
        if values.dtype != torch.bfloat16:
            return cls.of_floats(values.float().numpy(), block, column, multiple)
        return cls(block, column, ROUNDED, values.numel(), round_up(values.numel(), multiple), values)

    @classmethod
    def of_floats(cls, values: NDArray[np.float32], block: int, column: int, multiple: int = LANES) -> Piece:
        values = np.ascontiguousarray(values, np.float32)
        return cls(block, column, FLOATS, values.size, round_up(values.size, multiple), values)

    @classmethod
    def of_integers(cls, values: NDArray[np.int64], block: int, column: int) -> Piece:
        return cls(block, column, INTEGERS, values.size, 1, values)

    @property
    def is_factor(self) -> bool:
        return self.kind in (A, B)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes once it is packed."""
        if self.kind == A:
            return round_up(self.columns, SLICE) * round_up(self.rows, 2) * BF16_NBYTES
        if self.kind == B:
            return round_up(self.rows, SLICE) * round_up(self.columns, 2) * BF16_NBYTES
        sizes = {NUMBERS: BF16_NBYTES, INTEGERS: np.dtype(np.int64).itemsize}
        return self.rows * sizes[self.kind] if self.kind in sizes else self.columns * FLOAT_NBYTES

    @property
    def source(self) -> tuple[int, int, float]:
        """Where its numbers are now, in which dtype, and by what they are multiplied."""
        if isinstance(self.numbers, Tensor):
            return self.numbers.data_ptr(), READ[self.numbers.dtype], 1.0
        return self.numbers.ctypes.data, FLOAT32, 1.0


def _in_bfloat16(values: Tensor) -> Tensor:
    values = values if values.dtype == torch.bfloat16 else values.to(torch.bfloat16)
    return values if values.is_contiguous() else values.contiguous()


def in_order(pieces: Sequence[Piece]) -> list[Piece]:
    """Put factors first, as they lie in memory."""
    return [*(piece for piece in pieces if piece.is_factor), *(piece for piece in pieces if not piece.is_factor)]


def sources_of(pieces: Sequence[Piece]) -> list[tuple[int, int, float]]:
    """Return where the numbers of each piece are, in the order in which they are written."""
    return [piece.source for piece in in_order(pieces)]


@dataclass(frozen=True)
class Written:
    """A task's memory, the integers of its `Forms` (depth, FORMS_FIELDS), and the addresses of its `Exit`."""

    memory: NDArray[np.uint8]
    forms: NDArray[np.int64]
    ends: tuple[int, ...]


class Layout:
    """Where each array of a task lies, and the table that points to them: the same for tasks of one structure."""

    def __init__(self, pieces: Sequence[Piece], forms: NDArray[np.int64], ends: Sequence[int]) -> None:
        """`forms` has the sizes that a block's forms have; `ends` the addresses that stand where the task has none."""
        plan = Plan()
        factors = [plan.take(piece.nbytes) for piece in pieces if piece.is_factor]
        self._zeros = plan.take(BEYOND_NBYTES)
        places = factors + [plan.take(piece.nbytes) for piece in pieces if not piece.is_factor]
        pieces = in_order(pieces)
        self._nbytes, self._places = plan.nbytes, np.array(places, np.int64)
        self._table = np.concatenate([forms.reshape(-1), np.array(ends, np.int64)])
        self.cells = tuple((piece.block, piece.column) for piece in pieces)
        """Of each array, in the order in which they are written: its block and its column in the table."""
        rows = [len(forms) if block < 0 else block for block, _ in self.cells]
        self._at = np.array(rows) * FORMS_FIELDS + np.array([column for _, column in self.cells])
        self._calls = np.zeros(len(pieces), PIECE)
        self._calls["kind"] = [piece.kind for piece in pieces]
        self._calls["rows"] = [piece.rows for piece in pieces]
        self._calls["columns"] = [piece.columns for piece in pieces]
        self._calls["to"] = places

    def calls(self, sources: Sequence[tuple[int, int, float]]) -> NDArray[np.void]:
        """Return what C reads of each array, whose numbers are at these places: (address, dtype, scale)."""
        calls = self._calls.copy()
        calls["from_"], calls["numbers"], calls["scale"] = (list(column) for column in zip(*sources, strict=True))
        return calls

    def write(self, library: ctypes.CDLL, calls: NDArray[np.void]) -> Written | int:
        """Pack all arrays, or return the index of the first one that has a number which is not finite."""
        memory, table = aligned(self._nbytes), self._table.copy()
        base = memory.ctypes.data
        memory[self._zeros : self._zeros + BEYOND_NBYTES] = 0
        bad = library.onetrunk_pack_task(calls.ctypes.data, len(calls), base)
        if bad >= 0:
            return int(bad)
        table[self._at] = self._places + base
        forms, ends = table[:-EXIT_ARRAYS].reshape(-1, FORMS_FIELDS), table[-EXIT_ARRAYS:]
        return Written(memory, forms, tuple(ends.tolist()))
