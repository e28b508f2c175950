"""The engine's own kernel: a backbone's blocks over rows of many tasks, many blocks in one call."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from serving.kernel.backbone import PackedBackbone, model_of
from serving.kernel.library import load_library
from serving.kernel.regular import RegularPacker
from serving.kernel.rows import KernelRow, by_work, check_rows, tables_of
from serving.kernel.structs import MAPS, Run
from serving.kernel.support import Coverage
from serving.kernel.task import PackedTask, TaskPacker
from store.errors import InvalidSettingError
from store.weights.forms import TaskWeights
from store.weights.regular_task import RegularTask

CACHED = 400_000  # numbers of a chunk's residual, at most: what a chunk works on stays in a core's second cache
MOST_THREADS = 1024
MOST_ROWS = 16  # of a chunk, which small backbones reach first


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
        self.tokens = int(self._model.tokens)
        widths = {path: tuple(vit.blocks[0].get_submodule(path).weight.shape) for path in MAPS}
        sizes = {"heads": vit.blocks[0].attn.num_heads, "prefix": vit.num_prefix_tokens, "tokens": self.tokens}
        self._packer = TaskPacker(self._library, packed, widths, len(vit.blocks), sizes=sizes, pools=covered.pooling)
        self._regular = RegularPacker(self._library, self._packer)
        self._pixels = (3, *(g * p for g, p in zip(vit.patch_embed.grid_size, vit.patch_embed.patch_size, strict=True)))
        self._one_run = Lock()
        self._pool = self._library.onetrunk_new_pool(threads)
        weakref.finalize(self, self._library.onetrunk_free_pool, self._pool)
        _kernels.add(self)

    def empty_tokens(self, rows: int) -> Tensor:
        """Return x for so many rows; its numbers are not set."""
        return torch.empty(rows, self.tokens, int(self._model.dim), dtype=torch.bfloat16)

    def pack(self, task: TaskWeights | RegularTask) -> PackedTask:
        """Pack a task; may run beside a run."""
        return self._regular.pack(task) if isinstance(task, RegularTask) else self._packer.pack(task)

    def run(self, rows: Sequence[KernelRow], x: Tensor, images: Tensor | None, start: int, stop: int) -> None:
        """Run blocks start + 1 to stop of the rows, the deepest first; the stem before them where images are given.

        x (places, tokens, dim) bfloat16 is read without images, and holds the rows that go on at the end.
        images (images, 3, height, width) are float32.
        """
        self._check(rows, x, images, start, stop)
        if not rows or start == stop:
            return
        table, exits = tables_of(by_work(rows))
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
            raise InvalidSettingError(f"tokens {tuple(x.shape)} of {x.dtype}: give (n, *{shape}) bfloat16 on the CPU")
        if images is not None and (
            (images.dtype, images.shape[1:], images.device.type) != (torch.float32, self._pixels, "cpu")
            or not images.is_contiguous()
        ):
            raise InvalidSettingError(
                f"images {tuple(images.shape)} of {images.dtype}: give float32 (n, *{self._pixels})"
            )
        if images is not None and not self.coverage.stem:
            raise InvalidSettingError("the kernel has no stem for this backbone: give the tokens that torch made")
        check_rows(rows, self._packed, len(x), None if images is None else len(images), start, stop)


_kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()


def _after_fork() -> None:
    """Nothing runs in a fork yet, whatever did in its parent; C forgets the threads that are not here by itself."""
    for kernel in _kernels:
        kernel._one_run = Lock()


os.register_at_fork(after_in_child=_after_fork)
