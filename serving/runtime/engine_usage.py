"""What the engine's calls took, in all and for each request."""

from __future__ import annotations

from serving.histogram import Histogram
from serving.runtime.prediction_request import PredictionRequest
from serving.scheduling.requests import Batch

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineUsage:
    """Written by the engine's thread alone, read by others; `total` is that of all engines, which take turns."""

    def __init__(self, total: EngineUsage | None = None) -> None:
        self._total = total
        self.busy_s = 0.0
        self.calls = 0
        self.row_blocks = 0
        self.batch_rows = Histogram(ROWS)
        """Rows of each batch, in its first block."""

    def count(self, batch: Batch[PredictionRequest], before: int, after: int, seconds: float) -> None:
        """Count a call that ran the blocks after `before` up to `after`, and give each request its part of it."""
        row_blocks = sum(batch.rows_by_block[before:after])
        for usage in (self, self._total):
            if usage is not None:
                usage._add(None if before else batch.rows_by_block[0], row_blocks, seconds)
        for request in batch.requests:
            if (times := request.item.times) is not None and row_blocks:
                times.engine_s += seconds * sum(request.rows[before:after]) / row_blocks

    def _add(self, rows_of_new: int | None, row_blocks: int, seconds: float) -> None:
        self.busy_s += seconds
        self.calls += 1
        self.row_blocks += row_blocks
        if rows_of_new is not None:
            self.batch_rows.add(rows_of_new)
