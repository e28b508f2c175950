"""A batch between two of its blocks, and the clients that wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from serving.engine.batch_run import BatchRun, Finished
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.scheduling.requests import ScheduledRequest


@dataclass(frozen=True)
class RunningBatch:
    """A batch that has begun: its run, and for each of the run's rows the request and the prediction."""

    run: BatchRun
    rows: tuple[tuple[ScheduledRequest[PredictionRequest], PendingPrediction], ...]

    def release(self) -> None:
        for request, _ in self.rows:
            request.item.release()

    def answer(self, finished: Finished) -> list[ScheduledRequest[PredictionRequest]]:
        """Finish the predictions that clients still wait for; return the requests that are over."""
        over = []
        for index, logits in zip(finished.rows, finished.logits, strict=True):
            request, prediction = self.rows[index]
            prediction.finish(logits)
            if not request.item.is_live:
                over.append(request)
                request.item.release()
        return over
