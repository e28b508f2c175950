"""Run requests on one thread: in each call of the engine, the batch that the scheduler chooses."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

from serving.engine.engine import Engine
from serving.runtime.call_watch import CallWatch
from serving.runtime.engine_usage import EngineUsage
from serving.runtime.fair_lock import FairLock
from serving.runtime.prediction_request import PredictionRequest
from serving.runtime.running_batch import RunningBatch, begin_batch, scheduled_as
from serving.scheduling.requests import Batch, Decision, ScheduledRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import OnetrunkError, OverloadedError


class EngineLoop:
    """One thread that owns the engine; close it to stop."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler[PredictionRequest],
        *,
        turns: FairLock | None = None,
        usage: EngineUsage | None = None,
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._turns = turns
        self.usage = usage or EngineUsage()
        self._wake = threading.Condition()
        self._closing = False
        self._watch = CallWatch()
        self._running: dict[Batch[PredictionRequest], RunningBatch] = {}  # used by the thread alone
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

    def check(self) -> None:
        """Raise `RuntimeError` where no request will be answered: the thread has ended, or is stuck in a call."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has stopped: restart the replica")
        if stuck_s := self._watch.stuck_s:
            raise RuntimeError(f"the engine is stuck in one call for {stuck_s:.0f} s: restart the replica")

    def submit(self, request: PredictionRequest) -> None:
        """Queue a request; where it is refused, the error is set on its futures."""
        if not request.is_live:
            request.release()
            return
        scheduled = scheduled_as(request)
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
        while (decision := self._next()) is not None and (batch := decision.batch) is not None:
            try:
                with nullcontext() if self._turns is None else self._turns.taken():
                    self._run_blocks(batch, decision)
            except BaseException as error:  # the waiting clients must get it, and the next batch must run
                with self._wake:
                    self._scheduler.fail(batch)
                self._running.pop(batch, None)
                for request in batch.requests:
                    request.item.fail(error)

    def _next(self) -> Decision[PredictionRequest] | None:
        """Wait for a batch with blocks to run; None once the loop is closing and nothing is left."""
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
                return decision

    def _run_blocks(self, batch: Batch[PredictionRequest], decision: Decision[PredictionRequest]) -> None:
        start, before = time.perf_counter(), batch.depth
        with self._watch.call(decision.seconds):
            if batch not in self._running:
                self._running[batch] = begin_batch(self._engine, batch.requests)
            running = self._running[batch]
            finished = running.run_blocks(decision.blocks)
        seconds, after = time.perf_counter() - start, running.run.depth
        self.usage.count(batch, before, after, seconds)
        over = [] if finished is None else running.answer(finished)
        with self._wake:
            self._scheduler.blocks_finished(batch, after - before, seconds)
            for request in over:
                self._scheduler.abort(request)
