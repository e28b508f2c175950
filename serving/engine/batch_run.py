"""A batch on its way through the blocks, which may stop between any two of them and go on later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TypeVar, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from serving.engine.adapter_ops import layer_norm, norms_of
from serving.engine.block import ServedBlock
from serving.engine.core_threads import CoreThreads
from serving.engine.row_plan import EngineRow, events, rows_at, rows_by_block
from store.weights.forms import Forms, TaskWeights

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """Rows of a batch whose answers are ready, and their logits: float32, one for each class of the row's task."""

    rows: tuple[int, ...]
    logits: tuple[Tensor, ...]


@dataclass(frozen=True)
class EngineModel:
    """The frozen backbone as it runs; `one_by_one` runs each row alone, so that its bytes depend on no neighbour."""

    vit: VisionTransformer
    blocks: Sequence[ServedBlock]
    threads: CoreThreads
    one_by_one: bool


class BatchRun:
    """Rows of a batch and the depth that they have reached; other batches may run between two of its blocks."""

    def __init__(
        self, model: EngineModel, images: Tensor, tasks: Sequence[TaskWeights], image_of: Sequence[int]
    ) -> None:
        self._model = model
        self._tasks = tasks
        self._image_of = image_of
        self._events = events(tasks)
        self._parts = model.threads.split(images)
        self._rows = [EngineRow(image, None, ()) for image in range(len(images))]
        self.depth = 0
        """Blocks that have run."""

    @property
    def rows(self) -> int:
        """Rows whose answers are not ready."""
        return sum(task.depth > self.depth for task in self._tasks)

    @property
    def done(self) -> bool:
        return all(task.depth <= self.depth for task in self._tasks)

    @property
    def remaining_blocks(self) -> int:
        """How many blocks are still to run, summed over rows; a row that several tasks share counts once."""
        return sum(rows_by_block(self._tasks, self._image_of)[self.depth :])

    def run_blocks(self, count: int) -> Finished | None:
        """Run so many blocks, or as many as are left; return the answers of the rows that end on the way, if any do."""
        ended = [self.run_block() for _ in range(count) if not self.done]
        rows = tuple(row for each in ended if each for row in each.rows)
        return Finished(rows, tuple(logits for each in ended if each for logits in each.logits)) if rows else None

    @torch.inference_mode()
    def run_block(self) -> Finished | None:
        """Run one block, and the stem before the first; return the answers of the rows that end there, if any do."""
        if self.depth == 0:
            self._parts = self._run(lambda images, _: stem(self._model.vit, images), self._parts, self._rows)
        self.depth += 1
        if self.depth in self._events:
            self._split_rows()
        forms = [row.forms for row in self._rows]
        self._parts = self._run(self._model.blocks[self.depth - 1], self._parts, forms)
        return self._finish() if self.depth + 1 in self._events else None

    def _split_rows(self) -> None:
        """Go on with the rows of this depth: where a task is adapted from here on, its row is a copy of the shared."""
        before = {row.key: index for index, row in enumerate(self._rows)}
        self._rows = rows_at(self.depth, self._tasks, self._image_of)
        sources = [before[row.key if row.key in before else (row.image, None)] for row in self._rows]
        first, x = list(range(len(sources))), self._joined()
        self._parts = self._model.threads.split(x[: len(sources)] if sources == first else x[sources])

    def _finish(self) -> Finished | None:
        ending = [
            (index, member)
            for index, row in enumerate(self._rows)
            for member in row.members
            if self._tasks[member].depth == self.depth
        ]
        if not ending:
            return None
        members = tuple(member for _, member in ending)
        tasks = [self._tasks[member] for member in members]
        sources = [index for index, _ in ending]
        x = self._joined()
        x = x[sources[0] :] if sources == list(range(sources[0], len(x))) else x[sources]
        (features,) = self._run(partial(pooled, self._model.vit), [x], [task.forms for task in tasks])
        logits = tuple(
            F.linear(feature, task.head_weight, task.head_bias).float()
            for feature, task in zip(features, tasks, strict=True)
        )
        return Finished(members, logits)

    def _joined(self) -> Tensor:
        return self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)

    def _run(
        self, step: Callable[[Tensor, Sequence[T]], Tensor], parts: Sequence[Tensor], rows: Sequence[T]
    ) -> list[Tensor]:
        """Apply a step to each part of the rows, each in a core thread of its own."""
        ends = list(accumulate(len(x) for x in parts))
        pairs = [(x, rows[end - len(x) : end]) for x, end in zip(parts, ends, strict=True)]
        apply = partial(_one_by_one, step) if self._model.one_by_one else step
        return self._model.threads.run([partial(apply, x, own) for x, own in pairs])


def stem(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Return the tokens (n, tokens, dim) that the first block takes."""
    return cast(Tensor, vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))))


def pooled(vit: VisionTransformer, x: Tensor, tasks: Sequence[Forms]) -> Tensor:
    """Return the features (n, dim) that the heads take, of tokens (n, tokens, dim)."""
    # A LayerNorm sees one token at a time, so only those before the patches need it where only they are pooled.
    x = x[:, : vit.num_prefix_tokens] if vit.global_pool == "token" else x
    return cast(Tensor, vit.forward_head(layer_norm(x, vit.norm, norms_of(tasks, "norm")), pre_logits=True))


def _one_by_one(step: Callable[[Tensor, Sequence[T]], Tensor], x: Tensor, rows: Sequence[T]) -> Tensor:
    return torch.cat([step(x[index : index + 1], rows[index : index + 1]) for index in range(len(x))])
