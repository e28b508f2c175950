"""A batch on its way through the blocks, which may stop between any two of them and go on later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.row_plan import EngineRow, EngineTask, rows_at, rows_by_block, splits


@dataclass(frozen=True)
class Finished:
    """Rows of a batch whose answers are ready, and their logits: float32, one for each class of the row's task."""

    rows: tuple[int, ...]
    logits: tuple[Tensor, ...]


class Tokens(Protocol):
    """The tokens of a batch's rows, in whatever memory and layout; the stem has run once the first block has."""

    def advance(self, rows: Sequence[EngineRow], sources: Sequence[int], start: int, stop: int) -> Mapping[int, Tensor]:
        """Run blocks start + 1 to stop over the rows, deepest first, and return the logits of the members that end.

        Row i goes on from row `sources[i]` of the last call, of which the rows that had ended are left out; in the
        first call, from that image.
        """


class BatchRun:
    """Rows of a batch and the depth that they have reached; other batches may run between two of its blocks."""

    def __init__(self, tokens: Tokens, tasks: Sequence[EngineTask], image_of: Sequence[int]) -> None:
        self._tokens = tokens
        self._tasks = tasks
        self._image_of = image_of
        self._splits = splits(tasks)
        self._last = max(task.depth for task in tasks)
        self._rows: list[EngineRow] = []
        self.depth = 0
        """Blocks that have run."""

    @property
    def rows(self) -> int:
        """Rows whose answers are not ready."""
        return sum(task.depth > self.depth for task in self._tasks)

    @property
    def done(self) -> bool:
        return self.depth >= self._last

    @property
    def remaining_blocks(self) -> int:
        """How many blocks are still to run, summed over rows; a row that several tasks share counts once."""
        return sum(rows_by_block(self._tasks, self._image_of)[self.depth :])

    @torch.inference_mode()
    def run_blocks(self, count: int) -> Finished | None:
        """Run up to `count` blocks, and return the answers of the rows that end in one of them, if any do.

        The stem runs with the first block. It stops before a block at which rows are split, for which it is called
        again.
        """
        start = self.depth
        sources = self._split_rows() if start + 1 in self._splits else list(range(len(self._rows)))
        stop = min([start + count, self._last, *(block - 1 for block in self._splits if block > start + 1)])
        logits = self._tokens.advance(self._rows, sources, start, stop)
        self.depth = stop
        self._rows = [row for row in self._rows if row.depth > stop]
        return Finished(tuple(logits), tuple(logits.values())) if logits else None

    def _split_rows(self) -> list[int]:
        """Go on with the rows of the next block; return from which row, or at first from which image, each goes on."""
        before = {row.key: index for index, row in enumerate(self._rows)}
        self._rows = rows_at(self.depth + 1, self._tasks, self._image_of)
        if not self.depth:
            return [row.image for row in self._rows]
        return [before[row.key if row.key in before else (row.image, None)] for row in self._rows]
