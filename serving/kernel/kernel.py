"""The engine's own kernel: a backbone's blocks over rows of many tasks, many blocks in one call."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from serving.kernel.backbone import PackedBackbone, model_of
from serving.kernel.library import load_library
from serving.kernel.structs import EXIT_FIELDS, MAPS, Run
from serving.kernel.support import Coverage
from serving.kernel.task import PackedTask, TaskPacker
from store.errors import InvalidSettingError
from store.weights.forms import TaskWeights

CACHED = 400_000  # numbers of a chunk's residual, at most: what a chunk works on stays in a core's second cache
MOST_THREADS = 1024
MOST_ROWS = 16  # of a chunk, which small backbones reach first
NOWHERE = 1 << 40  # a depth that no row reaches: it stays in x


@dataclass(frozen=True)
class KernelRow:
    """A row of a batch: the task that adapts it or None, its places, and the tasks that leave it, with their logits.

    `exits` are (task, address of its logits), by depth; without any the row stays in x. `forms` and logits must
    stay in memory until the run is over.
    """

    task: PackedTask | None
    place: int
    image: int
    exits: Sequence[tuple[PackedTask, int]]


class Kernel:
    """One backbone, packed, and the threads that run its blocks. Runs take turns; packing may run beside them."""

    def __init__(
        self, library: Path, vit: VisionTransformer, packed: PackedBackbone, covered: Coverage, *, threads: int
    ) -> None:
        if not 1 <= threads <= MOST_THREADS:
            raise InvalidSettingError(f"{threads} threads: use 1 to {MOST_THREADS}")
        self.coverage = covered
        self._library = load_library(library)
        self._packed = packed  # the model holds addresses within
        self._model = model_of(vit, packed, covered)
        self._threads = threads
        widths = {path: tuple(vit.blocks[0].get_submodule(path).weight.shape) for path in MAPS}
        self._packer = TaskPacker(self._library, packed, widths, len(vit.blocks))
        self._pixels = (3, *(g * p for g, p in zip(vit.patch_embed.grid_size, vit.patch_embed.patch_size, strict=True)))
        self._one_run = Lock()
        self._pool = self._library.onetrunk_new_pool(threads)
        weakref.finalize(self, self._library.onetrunk_free_pool, self._pool)
        _kernels.add(self)

    @property
    def tokens(self) -> int:
        return int(self._model.tokens)

    def empty_tokens(self, rows: int) -> Tensor:
        """Return x for so many rows; its numbers are not set."""
        return torch.empty(rows, self.tokens, int(self._model.dim), dtype=torch.bfloat16)

    def pack(self, weights: TaskWeights) -> PackedTask:
        """Pack a task; may run beside a run."""
        return self._packer.pack(weights)

    def run(self, rows: Sequence[KernelRow], x: Tensor, images: Tensor | None, start: int, stop: int) -> None:
        """Run blocks start + 1 to stop of the rows, the deepest first; the stem before them where images are given.

        x (places, tokens, dim) bfloat16 is read without images, and holds the rows that go on at the end.
        images (images, 3, height, width) are float32.
        """
        self._check(rows, x, images, start, stop)
        if not rows or start == stop:
            return
        table, exits = _tables(rows)
        run = Run(
            model=ctypes.pointer(self._model),
            rows=table.ctypes.data,
            row_count=len(rows),
            x=x.data_ptr(),
            images=None if images is None else images.data_ptr(),
            from_=start,
            to=stop,
            slices=max((row.task.slices for row in rows if row.task is not None), default=1),
        )
        with self._one_run:
            self._library.onetrunk_run(self._pool, ctypes.byref(run), self.chunks(len(rows)))
        del exits  # they had to stay until here

    def chunks(self, rows: int) -> int:
        """Return into how many chunks so many rows are dealt: enough for all threads, and each fits a core's cache."""
        most = max(1, min(MOST_ROWS, CACHED // (self.tokens * int(self._model.dim))))
        chunks = max(-(-rows // most), min(rows, self._threads))
        return min(rows, -(-chunks // self._threads) * self._threads)

    def _check(self, rows: Sequence[KernelRow], x: Tensor, images: Tensor | None, start: int, stop: int) -> None:
        shape = (self.tokens, int(self._model.dim))
        if not 0 <= start <= stop <= self._model.blocks:
            raise InvalidSettingError(f"blocks {start + 1} to {stop} of {self._model.blocks}: give some of them")
        if x.dtype != torch.bfloat16 or x.shape[1:] != shape or not x.is_contiguous() or x.device.type != "cpu":
            raise InvalidSettingError(
                f"tokens {tuple(x.shape)} of {x.dtype}: give (rows, {shape[0]}, {shape[1]}) bfloat16"
            )
        if images is not None and (
            images.dtype != torch.float32
            or images.shape[1:] != self._pixels
            or not images.is_contiguous()
            or images.device.type != "cpu"
        ):
            raise InvalidSettingError(
                f"images {tuple(images.shape)} of {images.dtype}: give (n, {self._pixels}) float32"
            )
        if images is not None and not self.coverage.stem:
            raise InvalidSettingError("the kernel has no stem for this backbone: give the tokens that torch made")
        self._check_rows(rows, len(x), None if images is None else len(images), start, stop)

    def _check_rows(self, rows: Sequence[KernelRow], places: int, images: int | None, start: int, stop: int) -> None:
        if len({row.place for row in rows}) < len(rows):
            raise InvalidSettingError("two rows have one place: give each its own")
        before = NOWHERE
        for row in rows:
            if not 0 <= row.place < places or (images is not None and not 0 <= row.image < images):
                raise InvalidSettingError(f"row at place {row.place}, image {row.image}: there are {places} places")
            last = self._last_exit(row, start, stop)
            if last > before:
                raise InvalidSettingError(f"a row of {last} blocks after one of {before}: give the deepest first")
            before = last
            if row.task is None:
                continue
            self._check_engine(row.task)
            if min(stop, last) > row.task.depth:
                raise InvalidSettingError(f"block {stop} of a task of {row.task.depth} blocks: it has no forms there")

    def _last_exit(self, row: KernelRow, start: int, stop: int) -> int:
        """Return the depth at which the last of a row's tasks leaves, once the order of all is right."""
        last = start + 1
        for task, logits in row.exits:
            self._check_engine(task)
            if task.depth < last:
                raise InvalidSettingError(
                    f"a task of {task.depth} blocks leaves after block {last - 1}: give them by depth"
                )
            if task.depth <= stop and not logits:
                raise InvalidSettingError(f"a task leaves after block {task.depth}: give its logits an address")
            last = task.depth
        return last if row.exits else NOWHERE

    def _check_engine(self, task: PackedTask) -> None:
        if task.backbone is not self._packed:
            raise InvalidSettingError("a task that was packed for another engine: prepare it with this one")


_kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()


def _after_fork() -> None:
    """Nobody runs blocks in a fork yet, whoever did in its parent; C forgets the threads that are not here."""
    for kernel in _kernels:
        kernel._one_run = Lock()


os.register_at_fork(after_in_child=_after_fork)


def _tables(rows: Sequence[KernelRow]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the integers of all `Row`s and of the `Exit`s to which they point."""
    fields = [(*task.exit, logits) for row in rows for task, logits in row.exits]
    exits = np.array(fields, np.int64).reshape(-1, EXIT_FIELDS)
    at, table, width = exits.ctypes.data, [], exits.itemsize * EXIT_FIELDS
    for row in rows:
        forms = 0 if row.task is None else row.task.forms.ctypes.data
        table.append((forms, at, len(row.exits), row.place, row.image))
        at += width * len(row.exits)
    return np.array(table, np.int64), exits
