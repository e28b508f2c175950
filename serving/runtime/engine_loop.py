"""Run requests on one thread: between any two blocks, whatever the scheduler wants next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from serving.engine.batch_run import BatchRun, Finished
from serving.engine.engine import Engine
from serving.engine.row_plan import rows_by_block
from serving.scheduling.jobs import Batch, ScheduledRequest
from serving.scheduling.scheduler import Scheduler
from store.errors import OneTrunkError, OverloadedError
from store.weights.forms import TaskWeights

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PendingPrediction(Generic[T]):
    """One answer that is asked for: of which task, whom it is counted under, and what its logits become."""

    name: str
    weights: TaskWeights
    reply: Callable[[Tensor], T]
    answer: Future[T] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class PredictionRequest(Generic[T]):
    """One image (3, H, W) float32 for one or more tasks; `release` is called once it needs its tasks no more.

    It may be called more than once. The deadline is a time of `time.monotonic`. Cancelling all answers ends it.
    """

    pixels: Tensor
    rows: tuple[PendingPrediction[T], ...]
    deadline: float | None = None
    release: Callable[[], None] = lambda: None

    @property
    def is_wanted(self) -> bool:
        return not all(row.answer.done() for row in self.rows)

    def fail(self, error: BaseException) -> None:
        """Let whoever still waits hear of it."""
        for row in self.rows:
            if not row.answer.done() and row.answer.set_running_or_notify_cancel():
                row.answer.set_exception(error)
        self.release()


@dataclass(frozen=True)
class RunningBatch(Generic[T]):
    """A batch on its way: its walk, and whose each of the walk's rows is."""

    walk: BatchRun
    owners: tuple[tuple[ScheduledRequest[PredictionRequest[T]], PendingPrediction[T]], ...]

    def release(self) -> None:
        for job, _ in self.owners:
            job.item.release()

    def answer(self, finished: Finished) -> list[ScheduledRequest[PredictionRequest[T]]]:
        """Answer who still waits; return the jobs of which nobody waits for anything more."""
        ended = []
        for index, logits in zip(finished.rows, finished.logits, strict=True):
            job, row = self.owners[index]
            if not row.answer.done() and row.answer.set_running_or_notify_cancel():
                row.answer.set_result(row.reply(logits.cpu()))
            if not job.item.is_wanted:
                ended.append(job)
                job.item.release()
        return ended


class EngineLoop(Generic[T]):
    """One thread that owns the engine; close it to stop."""

    def __init__(self, engine: Engine, scheduler: Scheduler[PredictionRequest[T]]) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._wake = threading.Condition()
        self._closing = False
        self._climbs: dict[Batch[PredictionRequest[T]], RunningBatch[T]] = {}  # the thread's own
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

    def submit(self, request: PredictionRequest[T]) -> None:
        """Queue a request; what it is refused for becomes of its answers."""
        if not request.is_wanted:
            request.release()
            return
        names, tasks = tuple(row.name for row in request.rows), [row.weights for row in request.rows]
        rows = rows_by_block(tasks, [0] * len(tasks))
        job = ScheduledRequest(request, names, rows, request.deadline)
        try:
            with self._wake:
                if self._closing:
                    raise OverloadedError("the server is stopping: ask again once it is back")
                self._scheduler.admit(job, time.monotonic())
                self._wake.notify()
        except OneTrunkError as error:
            request.fail(error)
            return
        for row in request.rows:
            row.answer.add_done_callback(lambda answer: self._forget(job) if answer.cancelled() else None)

    def _forget(self, job: ScheduledRequest[PredictionRequest[T]]) -> None:
        if job.item.is_wanted:
            return
        with self._wake:
            if self._scheduler.abort(job):
                self._wake.notify()  # its batch may have to be let go
                return
        job.item.release()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._advance(batch)
            except BaseException as error:  # those who wait must hear of it, and the next batch must run
                with self._wake:
                    self._scheduler.fail(batch)
                self._climbs.pop(batch, None)
                for job in batch.jobs:
                    job.item.fail(error)

    def _next(self) -> Batch[PredictionRequest[T]] | None:
        """Wait for a batch of which a block is to run; None once there is nothing left and the runner is closing."""
        while True:
            with self._wake:
                step = self._scheduler.next(time.monotonic())
                left = [batch for batch in self._climbs if not batch.live]
                if step.batch is None and not step.refused and not left:
                    if self._closing:
                        return None
                    self._wake.wait()
            for job, error in step.refused.items():
                job.item.fail(error)
            for batch in left:
                self._climbs.pop(batch).release()
            if step.batch is not None:
                return step.batch

    def _advance(self, batch: Batch[PredictionRequest[T]]) -> None:
        start = time.perf_counter()
        if batch not in self._climbs:
            self._climbs[batch] = self._begin(batch.jobs)
        climb = self._climbs[batch]
        finished = climb.walk.advance()
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)
        seconds = time.perf_counter() - start
        ended = [] if finished is None else climb.answer(finished)
        with self._wake:
            self._scheduler.block_finished(batch, seconds)
            for job in ended:
                self._scheduler.abort(job)

    def _begin(self, jobs: Sequence[ScheduledRequest[PredictionRequest[T]]]) -> RunningBatch[T]:
        owners = tuple((job, row) for job in jobs for row in job.item.rows)
        walk = self._engine.begin(
            torch.stack([job.item.pixels for job in jobs]),
            [row.weights for _, row in owners],
            [index for index, job in enumerate(jobs) for _ in job.item.rows],
        )
        return RunningBatch(walk, owners)
