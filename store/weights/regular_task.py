"""A LoRA as it stands in its files: an engine may take it from there, without a tensor for each of its factors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from store.adapters.safetensors_header import TensorInfo, header_nbytes, parse_header
from store.weights.forms import TaskWeights
from store.weights.lowering.finite import not_finite
from store.weights.lowering.lower import ADAPTER, HEAD, names_in, with_head
from store.weights.lowering.stacked_lora import Stack, lower_stacks, scalings_of, stacks_of
from store.weights.tensor_views import tensors_in

__all__ = ["RegularTask", "Structure", "not_finite"]

MOST_NBYTES = 1 << 17  # of a config and headers that are remembered: 48 blocks take half of it


@dataclass(frozen=True)
class Structure:
    """What a regular task is but for its numbers and the names of its classes: thousands of tasks share one."""

    depth: int
    stacks: tuple[Stack, ...]
    scalings: tuple[tuple[float, ...], ...]
    """By what each factor of each stack is multiplied."""
    head_weight: TensorInfo
    head_bias: TensorInfo

    @cached_property
    def _hash(self) -> int:
        return hash((self.depth, self.stacks, self.scalings, self.head_weight, self.head_bias))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, eq=False)
class RegularTask:
    """A task whose adapter's file is regular (`lower_blocks`), in views of its files.

    Whoever takes it copies what it needs before the views end, and checks that every number is finite.
    """

    structure: Structure
    adapter: memoryview
    head: memoryview
    label_bytes: bytes

    @classmethod
    def of(
        cls, depth: int, config: bytes, adapter: memoryview, head: memoryview, label_bytes: bytes
    ) -> RegularTask | None:
        """Return the task, None where its file is not regular."""
        headers = _header(adapter, ADAPTER), _header(head, HEAD)
        if sum(map(len, headers)) + len(config) > MOST_NBYTES:
            return None
        structure = _structure(depth, config, headers[0], len(adapter), headers[1], len(head))
        return None if structure is None else cls(structure, adapter, head, label_bytes)

    @property
    def labels(self) -> tuple[str, ...]:
        return names_in(self.label_bytes)

    def lowered(self, dtype: torch.dtype, device: str | torch.device = "cpu") -> TaskWeights:
        """Return what `lower` makes of the files, bit by bit, in memory of its own."""
        shared = self.structure
        forms = lower_stacks(shared.stacks, shared.scalings, self.adapter, dtype, device)
        return with_head(forms, tensors_in(self.head, HEAD), self.label_bytes, shared.depth, dtype, device)


def _header(view: memoryview, source: str) -> bytes:
    return bytes(view[: header_nbytes(bytes(view[:8]), source)])


@lru_cache(maxsize=256)
def _structure(
    depth: int, config: bytes, header: bytes, nbytes: int, head_header: bytes, head_nbytes: int
) -> Structure | None:
    """Return the structure of a task with this config and these headers; None unless its factors lie in the file."""
    settings = json.loads(config)
    stacks = stacks_of(header) if settings["peft_type"] == "LORA" else None
    if stacks is None or not all(len(header) <= stack.offset and stack.end <= nbytes for stack in stacks):
        return None
    head = parse_header(head_header, head_nbytes, HEAD)
    return Structure(depth, stacks, scalings_of(settings, stacks), head["weight"], head["bias"])
