"""Where each row's factors are in memory: a table of addresses, which a launch of one shape reads for any tasks.

The table of a task is int64 (blocks, PLACES, FIELDS). The places of a block are its four linear maps and its two norms;
the fields of a map are those of `Delta`, those of a norm the first two, and 0 is "none". The rows of b are filled up
with zeros to a multiple of eight ranks, which a kernel loads at once:

    place   a        b      rank   bias   in_scale   out_scale
    qkv     address  ...
    norm1   weight   bias   0      0      0          0
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from store.errors import InvalidSettingError
from store.weights.forms import Delta, Forms, Norm

MAPS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NORMS = ("norm1", "norm2")
PLACES = {name: index for index, name in enumerate((*MAPS, *NORMS))}
FIELDS = 6
RANK = 2
MAX_RANK = 256
"""The highest rank that a table holds; a row with a higher one runs in the torch path."""
ALIGNMENT = 16
"""Bytes to which the kernels take each tensor of a table to be aligned, so that they load 16 bytes at once."""
EIGHT = 8
"""Ranks that the kernels load at once."""


@dataclass(frozen=True)
class TaskTable:
    """A task's table; `scaled` where an output has a scale."""

    entries: Tensor
    scaled: bool
    kept: tuple[Tensor, ...]
    """The tensors that it points to, some of them copies: aligned, or filled up."""


class PointerTables:
    """The tables of tasks on one backbone, each made once for as long as the task's forms are in memory."""

    def __init__(self, vit: VisionTransformer) -> None:
        self._vit = vit
        self._paths = [[f"blocks.{block}.{place}" for place in PLACES] for block in range(len(vit.blocks))]
        self._tables: dict[int, TaskTable | None] = {}
        self.unadapted = torch.zeros(len(vit.blocks), len(PLACES), FIELDS, dtype=torch.int64)
        for block, paths in enumerate(self._paths):
            for place in NORMS:
                norm = vit.get_submodule(paths[PLACES[place]])
                addresses = torch.tensor([norm.weight.data_ptr(), norm.bias.data_ptr()])
                self.unadapted[block, PLACES[place], :2] = addresses

    def __len__(self) -> int:
        return len(self._tables)

    def of(self, forms: Forms) -> TaskTable | None:
        """Return the table of a task, or None where a table cannot say all that the task does to the blocks.

        Raises `InvalidSettingError` for tensors that are not of the engine's dtype, device and sizes.
        """
        if id(forms) not in self._tables:
            plain = not forms.bottlenecks and not forms.has_turns and not forms.kept
            fits = plain and all(delta.rank <= MAX_RANK for delta in forms.deltas.values())
            self._tables[id(forms)] = self._make(forms) if fits else None
            weakref.finalize(forms, self._tables.pop, id(forms), None).atexit = False
        return self._tables[id(forms)]

    def stack(self, tables: Sequence[TaskTable], rows: int) -> Tensor:
        """Return the tables of rows, and of rows without a task up to `rows`: (rows, blocks, places, fields)."""
        return torch.stack([*(table.entries for table in tables), *[self.unadapted] * (rows - len(tables))])

    def _make(self, forms: Forms) -> TaskTable:
        entries: list[list[list[int]]] = self.unadapted.tolist()
        kept: list[Tensor] = []
        scaled = False
        for block, paths in enumerate(self._paths):
            for place, path in enumerate(paths):
                form = forms.deltas.get(path) or forms.norms.get(path)
                if form is None:
                    continue
                self._check(path, form)
                tensors = [None if tensor is None else _aligned(tensor) for tensor in _parts(_padded(form))]
                kept += [tensor for tensor in tensors if tensor is not None]
                addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
                entries[block][place] = _fields(form, addresses)
                scaled |= isinstance(form, Delta) and form.out_scale is not None
        return TaskTable(torch.tensor(entries), scaled, tuple(kept))

    def _check(self, path: str, form: Delta | Norm) -> None:
        """Refuse what a kernel would read wrongly: an address says nothing of dtype, device and size."""
        module = self._vit.get_submodule(path)
        weight = module.weight
        shapes = _shapes(module, form)
        for part, (tensor, shape) in zip(("a", "b", "bias", "in_scale", "out_scale"), shapes, strict=False):
            if tensor is None:
                continue
            if (tensor.dtype, tensor.device) != (weight.dtype, weight.device):
                raise InvalidSettingError(
                    f"{path}: task weights are {tensor.dtype} on {tensor.device}, the engine is {weight.dtype} on "
                    f"{weight.device}: load the task with the engine's dtype and device"
                )
            if tuple(tensor.shape) != shape:
                raise InvalidSettingError(
                    f"{path}: {part} is {tuple(tensor.shape)}, and this map takes {shape}: load a task of this backbone"
                )


def _parts(form: Delta | Norm) -> tuple[Tensor | None, ...]:
    if isinstance(form, Norm):
        return form.weight, form.bias
    return form.a, form.b, form.bias, form.in_scale, form.out_scale


def _padded(form: Delta | Norm) -> Delta | Norm:
    """Return the form with the rows of b filled up with zeros to a multiple of eight."""
    if isinstance(form, Norm) or form.b is None or form.rank % EIGHT == 0:  # a pad by nothing would be a copy as well
        return form
    return replace(form, b=F.pad(form.b, (0, -form.rank % EIGHT)))


def _fields(form: Delta | Norm, addresses: Sequence[int]) -> list[int]:
    if isinstance(form, Norm):
        return [*addresses, 0, 0, 0, 0]
    a, b, bias, in_scale, out_scale = addresses
    return [a, b, form.rank, bias, in_scale, out_scale]


def _shapes(module: nn.Module, form: Delta | Norm) -> list[tuple[Tensor | None, tuple[int, ...]]]:
    weight = cast(Tensor, module.weight)
    if isinstance(form, Norm):
        return [(form.weight, tuple(weight.shape)), (form.bias, tuple(weight.shape))]
    (fan_out, fan_in), rank = weight.shape, form.rank
    shapes = ((1, rank, fan_in), (1, fan_out, rank), (1, 1, fan_out), (1, 1, fan_in), (1, 1, fan_out))
    return list(zip(_parts(form), shapes, strict=True))


def _aligned(tensor: Tensor) -> Tensor:
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
