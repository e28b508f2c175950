"""A batch between two of its calls, and the clients that wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serving.engine.batch_run import BatchRun, Finished
from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.scheduling.requests import ScheduledRequest


@dataclass(frozen=True)
class RunningBatch:
    """A batch that has begun: its run on a device, and for each of the run's rows the request and the prediction."""

    run: BatchRun
    device: torch.device
    rows: tuple[tuple[ScheduledRequest[PredictionRequest], PendingPrediction], ...]

    def run_blocks(self, count: int) -> Finished | None:
        """Do what `BatchRun.run_blocks` does, and return once the device has done it."""
        finished = self.run.run_blocks(count)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return finished

    def release(self) -> None:
        for request, _ in self.rows:
            request.item.release()

    def answer(self, finished: Finished) -> list[ScheduledRequest[PredictionRequest]]:
        """Finish the predictions that clients still wait for; return the requests that are over."""
        over = []
        for index, logits in zip(finished.rows, finished.logits, strict=True):
            request, prediction = self.rows[index]
            if request.item.times is not None:
                request.item.times.finish()  # before the answer: it may be read as soon as that is there
            prediction.finish(logits)
            if not request.item.is_live:
                over.append(request)
                request.item.release()
        return over


def scheduled_as(request: PredictionRequest) -> ScheduledRequest[PredictionRequest]:
    """Return what the scheduler sees of a request."""
    tasks = [prediction.weights for prediction in request.pending]
    names = tuple(prediction.task for prediction in request.pending)
    rows = rows_by_block(tasks, [0] * len(tasks))
    return ScheduledRequest(request, names, rows, request.deadline, request.tenant or "")


def begin_batch(engine: Engine, requests: Sequence[ScheduledRequest[PredictionRequest]]) -> RunningBatch:
    for request in requests:
        if request.item.times is not None:
            request.item.times.start()
    rows = tuple((request, prediction) for request in requests for prediction in request.item.pending)
    run = engine.begin(
        torch.stack([request.item.pixels for request in requests]),
        [prediction.weights for _, prediction in rows],
        [index for index, request in enumerate(requests) for _ in request.item.pending],
    )
    return RunningBatch(run, engine.device, rows)
