"""Regular LoRA tasks packed straight from their files: one call for all factors, at places that like tasks share."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from serving.kernel.pieces import BFLOAT16, FLOAT16, FLOAT32, READ, Written
from serving.kernel.structs import DELTA_FIELDS, MAPS
from serving.kernel.task import PackedTask, TaskPacker, TaskPlan
from store.weights.regular_task import RegularTask, Structure, not_finite

MOST_STRUCTURES = 256  # that are remembered, of some 20 kB each
READ_NAMES = {"BF16": BFLOAT16, "F32": FLOAT32, "F16": FLOAT16}


@dataclass(frozen=True)
class _Shared:
    """What tasks of one structure have in common: their plan, and where the numbers of each array stand in a file."""

    plan: TaskPlan
    calls: NDArray[np.void]
    """As `Layout.calls` gives them, with the offset in its file for each address; the adapter's first."""
    factors: int
    subjects: tuple[str, ...]

    @classmethod
    def of(cls, plan: TaskPlan, structure: Structure) -> _Shared:
        places = _places(structure)
        found = [places[_name(block, column)] for block, column in plan.layout.cells]
        calls = plan.layout.calls([source for source, _ in found])
        factors = sum(block >= 0 for block, _ in plan.layout.cells)
        return cls(replace(plan, pieces=()), calls, factors, tuple(subject for _, subject in found))

    def calls_of(self, task: RegularTask) -> NDArray[np.void]:
        calls = self.calls.copy()
        calls["from_"][: self.factors] += _address(task.adapter)
        calls["from_"][self.factors :] += _address(task.head)
        return calls


class RegularPacker:
    """Packs tasks of one backbone as `TaskPacker` does after lowering, byte for byte; threads may use it at a time."""

    def __init__(self, library: ctypes.CDLL, packer: TaskPacker) -> None:
        self._library, self._packer = library, packer
        self._known: OrderedDict[Structure, _Shared] = OrderedDict()
        self._lock = Lock()

    def pack(self, task: RegularTask) -> PackedTask:
        """Raises what `TaskPacker.pack` and `RegularTask.lowered` do."""
        structure = task.structure
        if not self._packer.pools or not _is_packed(structure):
            return self._packer.pack(task.lowered(torch.bfloat16))
        if (shared := self._recall(structure)) is None:
            shared = self._remember(structure, self._packer.plan(task.lowered(torch.bfloat16)))
        written = shared.plan.layout.write(self._library, shared.calls_of(task))
        if not isinstance(written, Written):
            raise not_finite(shared.subjects[written], torch.bfloat16)
        return shared.plan.of(written, task.labels)

    def _recall(self, structure: Structure) -> _Shared | None:
        with self._lock:
            shared = self._known.get(structure)
            if shared is not None:
                self._known.move_to_end(structure)
            return shared

    def _remember(self, structure: Structure, plan: TaskPlan) -> _Shared:
        shared = _Shared.of(plan, structure)
        with self._lock:
            self._known[structure] = shared
            while len(self._known) > MOST_STRUCTURES:
                self._known.popitem(last=False)
        return shared


def _is_packed(structure: Structure) -> bool:
    """Whether the kernel reads the numbers of these files."""
    names = {structure.head_weight.dtype, structure.head_bias.dtype}
    return {stack.dtype for stack in structure.stacks} <= READ.keys() and names <= READ_NAMES.keys()


def _name(block: int, column: int) -> tuple[str, int]:
    """Name an array by its module and its place in there, or in the head."""
    return ("", column) if block < 0 else (f"blocks.{block}.{MAPS[column // DELTA_FIELDS]}", column % DELTA_FIELDS)


def _places(structure: Structure) -> dict[tuple[str, int], tuple[tuple[int, int, float], str]]:
    """Return where each array's numbers stand, as (offset, dtype, scaling), and what a message says of them."""
    places = {}
    for stack, scalings in zip(structure.stacks, structure.scalings, strict=True):
        for index, (path, scaling) in enumerate(zip(stack.paths, scalings, strict=True)):
            source = stack.offset + index * stack.step, READ[stack.dtype], scaling
            places[path, "AB".index(stack.part)] = source, f"module {path!r}"
    for column, info in ((2, structure.head_weight), (3, structure.head_bias)):
        places["", column] = (info.offset, READ_NAMES[info.dtype], 1.0), "head"
    return places


def _address(view: memoryview) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data
