"""What the engine's calls took, in all and for each request."""

from __future__ import annotations

from serving.histogram import Histogram
from serving.runtime.prediction_request import PredictionRequest
from serving.scheduling.requests import Batch

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class EngineUsage:
    """Written by the engine's thread alone, read by others."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        self.calls = 0
        self.row_blocks = 0
        self.batch_rows = Histogram(ROWS)
        """Rows of each batch, in its first block."""

    def count(self, batch: Batch[PredictionRequest], before: int, after: int, seconds: float) -> None:
        """Count a call that ran the blocks after `before` up to `after`, and give each request its part of it."""
        self.busy_s += seconds
        self.calls += 1
        if not before:
            self.batch_rows.add(batch.rows_by_block[0])
        row_blocks = sum(batch.rows_by_block[before:after])
        self.row_blocks += row_blocks
        for request in batch.requests:
            if (times := request.item.times) is not None and row_blocks:
                times.engine_s += seconds * sum(request.rows[before:after]) / row_blocks
