"""LoRA lowered for all blocks at once: a few tensor operations where one module after the other takes hundreds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from store.adapters.methods.supported import FLOATS, Config
from store.weights.forms import Delta, Forms
from store.weights.lowering.low_rank import lora_scaling
from store.weights.tensor_views import DTYPES

FACTOR = re.compile(r"base_model\.model\.(blocks\.\d+\.([\w.]+))\.lora_([AB])\.weight")


@dataclass(frozen=True)
class _Stack:
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

    def view(self, data: memoryview) -> Tensor:
        """Return the factors (blocks, *shape) in the bytes of the file."""
        stride, one = self.step // self.dtype.itemsize, math.prod(self.shape)
        count = (len(self.paths) - 1) * stride + one
        flat = torch.frombuffer(data, dtype=self.dtype, count=count, offset=self.offset)
        return flat.as_strided((len(self.paths), *self.shape), (stride, self.shape[1], 1))


def lower_blocks(
    config: Config, adapter: memoryview, *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> Forms | None:
    """Return what `lower_lora` and `Forms.to` make of the adapter's file, bit by bit; None where it is not regular.

    A file is regular where it holds factors alone, and those of one kind of linear map have one shape and stand at
    equal distances: what PEFT saves of a LoRA whose rank is the same in all blocks, with neither DoRA nor bias. The
    deltas are parts of one block of memory.
    """
    header = bytes(adapter[: 8 + int.from_bytes(adapter[:8], "little")])
    stacks = _stacks(header) if config["peft_type"] == "LORA" else None
    if stacks is None:
        return None
    memory = torch.empty(sum(stack.numel for stack in stacks), dtype=dtype)
    for stack, target in zip(stacks, _parts(stacks, memory), strict=True):
        source = stack.view(adapter)
        if stack.part == "B":
            source = source.float() * _scalings(config, stack)
        target.copy_(source)
    factors: dict[str, dict[str, Tensor]] = {}
    for stack, stacked in zip(stacks, _parts(stacks, memory.to(device)), strict=True):
        for path, factor in zip(stack.paths, stacked.unsqueeze(1).unbind(0), strict=True):
            factors.setdefault(path, {})[stack.part] = factor
    return Forms({path: Delta(a=factor["A"], b=factor["B"]) for path, factor in factors.items()})


@lru_cache(maxsize=64)
def _stacks(header: bytes) -> tuple[_Stack, ...] | None:
    """Return the stacks of a file that begins so; tasks of one rank and backbone have one header."""
    entries = json.loads(header[8:])
    entries.pop("__metadata__", None)
    groups: dict[tuple[str, str], list[tuple[int, str, tuple[str, int, int]]]] = {}
    for name, entry in entries.items():
        match = FACTOR.fullmatch(name)
        if match is None or entry["dtype"] not in FLOATS or len(entry["shape"]) != 2:
            return None
        factor = (len(header) + entry["data_offsets"][0], match[1], (entry["dtype"], *entry["shape"]))
        groups.setdefault((match[2], match[3]), []).append(factor)
    stacks = [_stack(part, sorted(group)) for (_, part), group in groups.items()]
    return tuple(stack for stack in stacks if stack is not None) if None not in stacks else None


def _stack(part: str, factors: Sequence[tuple[int, str, tuple[str, int, int]]]) -> _Stack | None:
    """Return the factors, by offset, path and look, as a stack; None where they look or lie unlike each other."""
    kinds = {kind for _, _, kind in factors}
    steps = {after - before for (before, _, _), (after, _, _) in pairwise(factors)} or {0}
    (name, rows, columns), step = next(iter(kinds)), next(iter(steps))
    dtype = DTYPES[name]
    if len(kinds) > 1 or len(steps) > 1 or step % dtype.itemsize:
        return None
    return _Stack(tuple(path for _, path, _ in factors), part, dtype, (rows, columns), factors[0][0], step)


def _parts(stacks: Sequence[_Stack], memory: Tensor) -> list[Tensor]:
    """Return each stack's part of the memory, (blocks, rank, in) or (blocks, out, rank)."""
    parts = torch.split(memory, [stack.numel for stack in stacks])
    return [part.view(len(stack.paths), *stack.shape) for stack, part in zip(stacks, parts, strict=True)]


def _scalings(config: Config, stack: _Stack) -> Tensor | float:
    """Return the scaling of each factor B (out, rank): a number where it is the same for all, else (blocks, 1, 1)."""
    paths = stack.paths if config.get("alpha_pattern") else stack.paths[:1]
    scalings = [lora_scaling(config, path, stack.shape[1]) for path in paths]
    return scalings[0] if len(set(scalings)) == 1 else torch.tensor(scalings).view(-1, 1, 1)
