"""LoRA lowered for all blocks at once: a few tensor operations where one module after the other takes hundreds.

Or not lowered at all: its stacks say where each factor stands in the file, and by what it is multiplied.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from store.adapters.methods.supported import FLOATS, Config
from store.weights.forms import Delta, Forms
from store.weights.lowering.finite import all_finite, not_finite
from store.weights.lowering.low_rank import lora_scaling
from store.weights.tensor_views import DTYPES

FACTOR = re.compile(r"base_model\.model\.(blocks\.\d+\.([\w.]+))\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Stack:
    """The factor A (rank, in) or B (out, rank) of one kind of linear map in every block that has it.

    In the order of the file: the first at byte `offset`, each next one `step` bytes further.
    """

    paths: tuple[str, ...]
    part: str
    dtype: torch.dtype
    shape: tuple[int, int]
    offset: int
    step: int

    @property
    def numel(self) -> int:
        return len(self.paths) * math.prod(self.shape)

    @property
    def end(self) -> int:
        """The byte after the last factor."""
        return self.offset + (len(self.paths) - 1) * self.step + math.prod(self.shape) * self.dtype.itemsize

    def view(self, data: memoryview) -> Tensor:
        """Return the factors (blocks, 1, *shape) in the bytes of the file."""
        stride, one = self.step // self.dtype.itemsize, math.prod(self.shape)
        count = (len(self.paths) - 1) * stride + one
        flat = torch.frombuffer(data, dtype=self.dtype, count=count, offset=self.offset)
        return flat.as_strided((len(self.paths), 1, *self.shape), (stride, one, self.shape[1], 1))


def lower_blocks(
    config: Config, adapter: memoryview, *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> Forms | None:
    """Return what `lower_lora` and `Forms.to` make of the adapter's file, bit by bit; None where it is not regular.

    A file is regular where it holds factors alone, and those of one kind of linear map have one shape and stand at
    equal distances: what PEFT saves of a LoRA whose rank is the same in all blocks, with neither DoRA nor bias. The
    deltas are parts of one block of memory. Raises `RefusedError` unless all numbers are finite.
    """
    header = bytes(adapter[: 8 + int.from_bytes(adapter[:8], "little")])
    stacks = stacks_of(header) if config["peft_type"] == "LORA" else None
    return None if stacks is None else lower_stacks(stacks, scalings_of(config, stacks), adapter, dtype, device)


def lower_stacks(
    stacks: Sequence[Stack],
    scalings: Sequence[Sequence[float]],
    adapter: memoryview,
    dtype: torch.dtype,
    device: str | torch.device,
) -> Forms:
    """Return the forms of the factors that stand in the file: A and B of each kind of map in turn."""
    factors = [stack.view(adapter) for stack in stacks]  # before memory is asked for: sizes that the file lacks fail
    memory = torch.empty(sum(factor.numel() for factor in factors), dtype=dtype)
    parts = _parts(stacks, memory)
    for stack, scaling, factor, part in zip(stacks, scalings, factors, parts, strict=True):
        if stack.part == "A":
            part.copy_(factor)
        else:
            _scale(factor, scaling[0] if len(set(scaling)) == 1 else torch.tensor(scaling).view(-1, 1, 1, 1), out=part)
    if not all_finite(memory):
        raise not_finite(f"module {next(_spoilt(stacks, parts))!r}", dtype)
    moved = memory.to(device)
    parts = parts if moved is memory else _parts(stacks, moved)
    deltas: dict[str, Delta] = {}
    for stack, down, up in zip(stacks[::2], parts[::2], parts[1::2], strict=True):
        deltas.update(zip(stack.paths, map(Delta, down.unbind(), up.unbind()), strict=True))
    return Forms(deltas)


def scalings_of(config: Config, stacks: Sequence[Stack]) -> tuple[tuple[float, ...], ...]:
    """Return by what each factor of each stack is multiplied: B by the adapter's scaling, A by 1."""

    def scaling(stack: Stack, path: str) -> float:
        return lora_scaling(config, path, stack.shape[1]) if stack.part == "B" else 1.0

    if config.get("alpha_pattern"):
        return tuple(tuple(scaling(stack, path) for path in stack.paths) for stack in stacks)
    return tuple((scaling(stack, stack.paths[0]),) * len(stack.paths) for stack in stacks)


def _scale(factor: Tensor, scaling: Tensor | float, *, out: Tensor) -> None:
    """out = factor * scaling, in float32 and rounded once; the fewest passes over the numbers that give these bytes."""
    if factor.dtype == out.dtype:  # the product is taken in float32 there, too
        torch.mul(factor, scaling, out=out)
    elif out.dtype == torch.float32:
        out.copy_(factor).mul_(scaling)
    else:
        out.copy_(factor.float().mul(scaling))


def _spoilt(stacks: Sequence[Stack], parts: Sequence[Tensor]) -> Iterator[str]:
    """Give the paths of the maps that have a number which is not finite."""
    for stack, part in zip(stacks, parts, strict=True):
        finite = part.isfinite().flatten(1).all(1).tolist()
        yield from (path for path, sound in zip(stack.paths, finite, strict=True) if not sound)


@lru_cache(maxsize=256)
def stacks_of(header: bytes) -> tuple[Stack, ...] | None:
    """Return A and B of each kind of map in a file with this header, which tasks of one rank and backbone share.

    None where the file is not regular, as `lower_blocks` says.
    """
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    groups: dict[str, dict[str, list[tuple[int, str, tuple[str, int, int]]]]] = {}
    for name, entry in entries.items():
        match = FACTOR.fullmatch(name)
        if match is None or entry["dtype"] not in FLOATS or not _is_matrix(entry["shape"]):
            return None
        factor = (len(header) + entry["data_offsets"][0], match[1], (entry["dtype"], *entry["shape"]))
        groups.setdefault(match[2], {"A": [], "B": []})[match[3]].append(factor)
    stacks: list[Stack] = []
    for group in groups.values():
        down, up = (_stack(part, sorted(factors)) for part, factors in group.items())
        if down is None or up is None or down.paths != up.paths:
            return None
        stacks += down, up
    return tuple(stacks)


def _is_matrix(shape: Sequence[object]) -> bool:
    return len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)


def _stack(part: str, factors: Sequence[tuple[int, str, tuple[str, int, int]]]) -> Stack | None:
    """Return factors of (offset, path, (dtype, *shape)) as a stack; None where dtype, shape or distance differ."""
    if not factors:
        return None
    kinds = {kind for _, _, kind in factors}
    steps = {after - before for (before, _, _), (after, _, _) in pairwise(factors)} or {0}
    (name, rows, columns), step = next(iter(kinds)), next(iter(steps))
    dtype = DTYPES[name]
    if len(kinds) > 1 or len(steps) > 1 or step % dtype.itemsize:
        return None
    return Stack(tuple(path for _, path, _ in factors), part, dtype, (rows, columns), factors[0][0], step)


def _parts(stacks: Sequence[Stack], memory: Tensor) -> list[Tensor]:
    """Return each stack's part of the memory, (blocks, 1, rank, in) or (blocks, 1, out, rank)."""
    parts = torch.split(memory, [stack.numel for stack in stacks])
    return [part.view(len(stack.paths), 1, *stack.shape) for stack, part in zip(stacks, parts, strict=True)]
