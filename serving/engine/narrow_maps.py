"""Linear maps of the heads or units that a task keeps, and the rows of a batch that keep the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor, nn

from serving.engine.kernels import JoinedLinear, Linear
from store.weights.forms import Forms, Kept
from store.weights.width import narrowed

LEAST_NBYTES = 256 << 20
Key = tuple[str, Kept]


class Branch(Protocol):
    """Attention or the MLP of a block, with what its rows keep; None where they keep all."""

    def __call__(self, x: Tensor, tasks: Sequence[Forms], kept: Kept | None) -> Tensor: ...


@dataclass(frozen=True)
class BranchMaps:
    """The first and last linear map of attention or the MLP; `nbytes` is the memory that they have of their own."""

    first: Linear | JoinedLinear
    last: Linear
    nbytes: int = 0


def by_width(branch: Branch, x: Tensor, tasks: Sequence[Forms], path: str) -> Tensor:
    """Run the branch at `path` on x (n, T, dim): rows that keep the same together, wherever they stand."""
    groups: dict[Kept | None, list[int]] = {}
    for row, task in enumerate(tasks):
        groups.setdefault(task.kept.get(path), []).append(row)
    if len(groups) == 1:
        return branch(x, tasks, next(iter(groups)))
    out = torch.empty_like(x)
    for kept, rows in groups.items():
        together = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        out[together] = branch(x[together], [tasks[row] for row in rows], kept)
    return out


def narrow_maps(first: nn.Linear, last: nn.Linear, kinds: tuple[str, str], kept: Kept) -> BranchMaps:
    """Cut the maps `kinds`, such as ("attn.qkv", "attn.proj"), to what is kept.

    The first heads or units are views of the weights, unless this CPU's matrix unit wants a layout of its own.
    """
    weights = [_narrow(layer, kind, kept) for layer, kind in zip((first, last), kinds, strict=True)]
    narrow = Linear.make(*weights[0]), Linear.make(*weights[1])
    if not narrow[1].packed and kept.is_prefix:
        shared = JoinedLinear.of_heads(first, kept) if kinds[0] == "attn.qkv" else narrow[0]
        return BranchMaps(shared, narrow[1])
    return BranchMaps(*narrow, sum(weight.nbytes for weight, _ in weights))


def _narrow(layer: nn.Linear, kind: str, kept: Kept) -> tuple[Tensor, Tensor | None]:
    bias = None if layer.bias is None else narrowed(layer.bias.detach(), kind, "bias", kept)
    return narrowed(layer.weight.detach(), kind, "weight", kept), bias


class NarrowMaps:
    """The maps that were gathered last, by path and what is kept: in as many bytes as the backbone has, or 256 MiB.

    `gathers` counts how often maps were made, `hits` how often they were there.
    """

    def __init__(self, max_nbytes: int) -> None:
        self.max_nbytes = max(max_nbytes, LEAST_NBYTES)
        self.nbytes = self.gathers = self.hits = 0
        self._maps: OrderedDict[Key, BranchMaps] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], BranchMaps]) -> BranchMaps:
        """Return the maps; core threads may ask for the same at once, and then more than one makes them."""
        with self._lock:
            if (known := self._maps.get(key)) is not None:
                self._maps.move_to_end(key)
                self.hits += 1
                return known
        made = make()
        with self._lock:
            self.gathers += 1
            if key not in self._maps:
                self._maps[key] = made
                self.nbytes += made.nbytes
            while self.nbytes > self.max_nbytes and len(self._maps) > 1:
                self.nbytes -= self._maps.popitem(last=False)[1].nbytes
        return made
