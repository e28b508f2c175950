"""Run requests on one thread: between any two blocks, the batch that the scheduler chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch

from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.runtime.prediction_request import PredictionRequest
from serving.runtime.running_batch import RunningBatch
from serving.scheduling.requests import Batch, ScheduledRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import OnetrunkError, OverloadedError


class EngineLoop:
    """One thread that owns the engine; close it to stop."""

    def __init__(self, engine: Engine, scheduler: Scheduler[PredictionRequest]) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._wake = threading.Condition()
        self._closing = False
        self._running: dict[Batch[PredictionRequest], RunningBatch] = {}  # used by the thread alone
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer what is queued, then stop."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy_s(self) -> float:
        """How long the block that runs now has been running."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def submit(self, request: PredictionRequest) -> None:
        """Queue a request; where it is refused, the error is set on its futures."""
        if not request.is_live:
            request.release()
            return
        tasks = [prediction.weights for prediction in request.pending]
        names, rows = tuple(prediction.task for prediction in request.pending), rows_by_block(tasks, [0] * len(tasks))
        scheduled = ScheduledRequest(request, names, rows, request.deadline)
        try:
            with self._wake:
                if self._closing:
                    raise OverloadedError("the server is stopping: ask again once it is back")
                self._scheduler.admit(scheduled, time.monotonic())
                self._wake.notify()
        except OnetrunkError as error:
            request.fail(error)
            return
        for prediction in request.pending:
            prediction.future.add_done_callback(lambda done: self._abort(scheduled) if done.cancelled() else None)

    def _abort(self, request: ScheduledRequest[PredictionRequest]) -> None:
        if request.item.is_live:
            return
        with self._wake:
            if self._scheduler.abort(request):
                self._wake.notify()  # its batch may have to be released
                return
        request.item.release()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._busy_since = time.monotonic()
            try:
                self._run_block(batch)
            except BaseException as error:  # the waiting clients must get it, and the next batch must run
                with self._wake:
                    self._scheduler.fail(batch)
                self._running.pop(batch, None)
                for request in batch.requests:
                    request.item.fail(error)
            self._busy_since = None

    def _next(self) -> Batch[PredictionRequest] | None:
        """Wait for a batch with a block to run; None once the loop is closing and nothing is left."""
        while True:
            with self._wake:
                decision = self._scheduler.next(time.monotonic())
                dead = [batch for batch in self._running if not batch.live]
                if decision.batch is None and not decision.refused and not dead:
                    if self._closing:
                        return None
                    self._wake.wait()
            for request, error in decision.refused.items():
                request.item.fail(error)
            for batch in dead:
                self._running.pop(batch).release()
            if decision.batch is not None:
                return decision.batch

    def _run_block(self, batch: Batch[PredictionRequest]) -> None:
        start = time.perf_counter()
        if batch not in self._running:
            self._running[batch] = self._start_batch(batch.requests)
        running = self._running[batch]
        finished = running.run.run_block()
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)
        seconds = time.perf_counter() - start
        over = [] if finished is None else running.answer(finished)
        with self._wake:
            self._scheduler.block_finished(batch, seconds)
            for request in over:
                self._scheduler.abort(request)

    def _start_batch(self, requests: Sequence[ScheduledRequest[PredictionRequest]]) -> RunningBatch:
        rows = tuple((request, prediction) for request in requests for prediction in request.item.pending)
        run = self._engine.begin(
            torch.stack([request.item.pixels for request in requests]),
            [prediction.weights for _, prediction in rows],
            [index for index, request in enumerate(requests) for _ in request.item.pending],
        )
        return RunningBatch(run, rows)
