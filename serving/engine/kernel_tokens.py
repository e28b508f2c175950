"""The rows of a batch in the engine's own kernel, and what it leaves to torch: rare stems and poolings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from serving.engine.row_plan import EngineRow
from serving.engine.torch_model import POOLS, head, stem
from serving.kernel.kernel import Kernel
from serving.kernel.rows import KernelRow
from serving.kernel.task import PackedTask


class KernelTokens:
    """The tokens of a batch's rows: pixels until the first block has run, then (places, tokens, dim) in bfloat16."""

    def __init__(
        self, kernel: Kernel, vit: VisionTransformer | None, images: Tensor, tasks: Sequence[PackedTask]
    ) -> None:
        self._kernel = kernel
        self._vit = vit
        self._tasks = tasks
        self._images: Tensor | None = None
        self._x = torch.empty(0)
        self._places = list(range(len(images)))  # in x, of the rows that go on
        if self._kernel.coverage.stem:
            self._images = images.float().contiguous()
        else:
            self._x = stem(cast(VisionTransformer, self._vit), images.bfloat16()).contiguous()

    def advance(self, rows: Sequence[EngineRow], sources: Sequence[int], start: int, stop: int) -> Mapping[int, Tensor]:
        if self._images is not None:
            self._x = self._kernel.empty_tokens(len(rows))
            self._places = list(range(len(rows)))
        elif len(set(sources)) < len(sources):  # rows that go on from one row become copies of it
            self._x = self._x[[self._places[source] for source in sources]]
            self._places = list(range(len(rows)))
        else:
            self._places = [self._places[source] for source in sources]
        run = self._run if self._kernel.coverage.pooling else self._run_to_each_end
        logits = run(rows, start, stop)
        self._images = None
        self._places = [place for row, place in zip(rows, self._places, strict=True) if row.depth > stop]
        return logits

    def _run(self, rows: Sequence[EngineRow], start: int, stop: int) -> dict[int, Tensor]:
        """Run the blocks in one call, in which every row leaves at its own depth."""
        tasks = self._tasks
        ends = [
            row.members if len(row.members) == 1 else sorted(row.members, key=lambda member: tasks[member].depth)
            for row in rows
        ]
        ending = [member for members in ends for member in members if start < tasks[member].depth <= stop]
        counts = [tasks[member].classes for member in ending]
        logits = torch.split(torch.empty(sum(counts), dtype=torch.float32), counts)
        addresses = {member: part.data_ptr() for member, part in zip(ending, logits, strict=True)}
        kernel_rows = [
            KernelRow(
                cast(PackedTask | None, row.task),
                place,
                row.image,
                [(tasks[member], addresses.get(member, 0)) for member in members if tasks[member].depth > start],
            )
            for row, place, members in zip(rows, self._places, ends, strict=True)
        ]
        self._kernel.run(kernel_rows, self._x, self._images, start, stop)
        return dict(zip(ending, logits, strict=True))

    def _run_to_each_end(self, rows: Sequence[EngineRow], start: int, stop: int) -> dict[int, Tensor]:
        """Run the blocks up to each depth at which rows leave, where torch pools them."""
        logits: dict[int, Tensor] = {}
        depths = {self._tasks[member].depth for row in rows for member in row.members}
        for depth in sorted({stop, *(depth for depth in depths if start < depth < stop)}):
            there = [(row, place) for row, place in zip(rows, self._places, strict=True) if row.depth > start]
            kernel_rows = [KernelRow(cast(PackedTask | None, row.task), place, row.image, ()) for row, place in there]
            self._kernel.run(kernel_rows, self._x, self._images, start, depth)
            self._images, start = None, depth
            ending = [(m, place) for row, place in there for m in row.members if self._tasks[m].depth == depth]
            logits |= self._pooled_by_torch(ending)
        return logits

    def _pooled_by_torch(self, ending: Sequence[tuple[int, int]]) -> dict[int, Tensor]:
        logits: dict[int, Tensor] = {}
        alike: dict[tuple[bool, int], list[tuple[int, int]]] = {}
        for member, place in ending:
            task = self._tasks[member]
            alike.setdefault((task.head[0].shape[1] > self._x.shape[2], task.tokens), []).append((member, place))
        for (wide, count), own in alike.items():
            x, tasks = self._x[[place for _, place in own], :count], [self._tasks[member] for member, _ in own]
            features = POOLS[wide](cast(VisionTransformer, self._vit), x, [task.norm for task in tasks])
            logits |= {m: head(f, *task.head) for (m, _), f, task in zip(own, features, tasks, strict=True)}
        return logits
