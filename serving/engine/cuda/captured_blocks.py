"""The blocks of a batch as captured steps: any tasks, few shapes, no wait for the device between them.

A step is one block on the first rows of the static buffers, for a bucket of rows. So a batch of any depths is a
sequence of steps, and there are as many steps as blocks times buckets times two: those that scale outputs and those
that do not. Rows that leave make the bucket smaller; blocks that no row reaches do not run.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from serving.engine.block import ServedBlocks
from serving.engine.cuda.captured_block import CapturedBlock
from serving.engine.cuda.captures import Capture, Captures, GraphCapture
from serving.engine.cuda.pointer_tables import PointerTables, TaskTable
from serving.engine.cuda.row_ops import RowOps, StaticRows
from serving.engine.torch_model import UNADAPTED, stem
from store.weights.forms import Forms

BUCKETS = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), *range(40, 65, 8))
"""Numbers of rows for which steps are captured; of a bucket at most 7 rows of 40 are empty."""


class CapturedBlocks:
    """Blocks of a backbone for rows of any tasks; what tables cannot say runs in the torch path beside them."""

    def __init__(
        self,
        vit: VisionTransformer,
        served: ServedBlocks,
        *,
        capture: Capture,
        make_ops: Callable[[StaticRows], RowOps],
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        self._served = served
        self._buckets = buckets
        self.tables = PointerTables(vit)
        self._rows = StaticRows.make(buckets[-1], _tokens(vit), vit.blocks[0].norm1.weight, len(vit.blocks))
        ops = make_ops(self._rows)
        self._blocks = [CapturedBlock(block, index, ops) for index, block in enumerate(vit.blocks)]
        self._loaded: list[weakref.ref[Forms]] = []  # what the static table stands for
        self._lock = Lock()
        self.captures = Captures(capture)

    def run(self, x: Tensor, tasks: Sequence[Forms], blocks: range) -> Tensor:
        """Run x (n, tokens, dim), row i belonging to tasks[i], through the blocks, counted from 0; x stays as it is."""
        if x.shape[1] != self._rows.x.shape[1]:  # rows that leave out patches: the static buffers have all of them
            return self._served.run(x, tasks, blocks)
        served = [index for index, forms in enumerate(tasks) if self.tables.of(forms) is None]
        if not served:
            return self._run_captured(x, tasks, blocks)
        captured = [index for index, forms in enumerate(tasks) if self.tables.of(forms) is not None]
        out = torch.empty_like(x)
        for rows, run in ((captured, self._run_captured), (served, self._served.run)):
            if rows:
                out[rows] = run(x[rows], [tasks[index] for index in rows], blocks)
        return out

    @torch.inference_mode()
    def warm(self, most: int | None = None) -> int:
        """Capture every step of at most so many rows, all by default, before the first batch; return their number."""
        with self._lock:
            for rows in (rows for rows in self._buckets if most is None or rows <= most):
                for scaled in (False, True):
                    self._capture(rows, range(len(self._blocks)), scaled=scaled)
        return len(self.captures)

    def _run_captured(self, x: Tensor, tasks: Sequence[Forms], blocks: range) -> Tensor:
        most = self._buckets[-1]
        starts = range(0, len(tasks), most)
        with self._lock:
            parts = [self._replay(x[at : at + most], tasks[at : at + most], blocks) for at in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _replay(self, x: Tensor, tasks: Sequence[Forms], blocks: range) -> Tensor:
        """Bring the rows into the static buffers, repeat the steps, and return a copy of what they made."""
        tables = [table for forms in tasks if (table := self.tables.of(forms)) is not None]
        count = self._buckets[bisect_left(self._buckets, len(tasks))]
        scaled = any(table.scaled for table in tables)
        self._capture(count, blocks, scaled=scaled)
        self._load(tasks, tables, count)
        rows = self._rows.x[: len(tasks)]
        rows.copy_(x)
        for index in blocks:
            self.captures[index, count, scaled]()
        self._rows.forms = []
        return rows.clone()

    def _load(self, tasks: Sequence[Forms], tables: Sequence[TaskTable], count: int) -> None:
        """Write the rows' tables into the static one, unless they are what it holds."""
        self._rows.forms = [*tasks, *[UNADAPTED] * (count - len(tasks))]
        if self._holds(tasks, count):
            return
        table, on_gpu = self.tables.stack(tables, count), self._rows.x.device.type == "cuda"
        self._rows.table[:count].copy_(table.pin_memory() if on_gpu else table, non_blocking=on_gpu)
        self._loaded = [weakref.ref(forms) for forms in self._rows.forms]

    def _holds(self, tasks: Sequence[Forms], count: int) -> bool:
        """Say whether the table has these tasks, and nothing whose memory is gone in the bucket's empty rows.

        The rows that end are the last ones, so what is left of a batch is what the table begins with.
        """
        held = [loaded() for loaded in self._loaded[:count]]
        same = len(held) == count and all(own is forms for own, forms in zip(held, tasks, strict=False))
        return same and None not in held

    def _capture(self, count: int, blocks: range, *, scaled: bool) -> None:
        missing = [index for index in blocks if (index, count, scaled) not in self.captures]
        if missing:
            # a capture runs its step once, and the last batch's addresses may be free memory by now
            self._rows.table.copy_(self.tables.unadapted.expand_as(self._rows.table))
            self._rows.forms, self._loaded = [UNADAPTED] * count, []
        for index in missing:
            self.captures.add((index, count, scaled), partial(self._step, index, count, scaled=scaled))

    def _step(self, index: int, count: int, *, scaled: bool) -> None:
        x = self._rows.x[:count]
        if (result := self._blocks[index](x, scaled=scaled)) is not x:
            x.copy_(result)


@torch.inference_mode()
def _tokens(vit: VisionTransformer) -> int:
    """Return how many tokens the stem makes of an image."""
    weight = vit.patch_embed.proj.weight
    image = torch.zeros(1, 3, *vit.patch_embed.img_size, dtype=weight.dtype, device=weight.device)
    return stem(vit, image).shape[1]


def on_cuda(vit: VisionTransformer, served: ServedBlocks) -> CapturedBlocks:
    """Capture graphs of Triton's kernels, which torch's builds for CUDA bring along."""
    from serving.engine.cuda.triton_row_ops import TritonRowOps

    device = vit.blocks[0].norm1.weight.device
    return CapturedBlocks(vit, served, capture=GraphCapture(device), make_ops=TritonRowOps)
