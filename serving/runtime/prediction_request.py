"""What waits for the engine: one image, and the predictions that its clients wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from serving.engine.row_plan import EngineTask
from serving.prediction import Prediction
from serving.runtime.engine_prediction import EnginePrediction
from serving.runtime.request_times import RequestTimes


@dataclass(frozen=True, eq=False)
class PendingPrediction:
    """A prediction that is not made yet: of which version of a task, by which weights, and its future."""

    task: str
    version: int
    weights: EngineTask
    future: Future[Prediction] = field(default_factory=Future)

    def finish(self, logits: Tensor) -> None:
        """Set the prediction of these logits on the future, unless it is cancelled."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            weights = self.weights
            self.future.set_result(
                EnginePrediction(self.task, self.version, weights.depth, weights.labels, logits.cpu())
            )

    def fail(self, error: BaseException) -> None:
        """Set the error on the future, unless it is cancelled."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class PredictionRequest:
    """One image (3, H, W) float32 for one or more tasks; `release` is called once it needs its tasks no more.

    It may be called more than once. The deadline is a time of `time.monotonic`; `tenant` is whose share of the engine
    it uses. Cancelling all futures ends it. `times`, where it has them, are noted on its way.
    """

    pixels: Tensor
    pending: tuple[PendingPrediction, ...]
    deadline: float | None = None
    release: Callable[[], None] = lambda: None
    tenant: str | None = None
    times: RequestTimes | None = None

    @property
    def is_live(self) -> bool:
        """Whether a client still waits for one of the predictions."""
        return not all(prediction.future.done() for prediction in self.pending)

    def fail(self, error: BaseException) -> None:
        """Set the error on the futures that are not done, and release the tasks."""
        for prediction in self.pending:
            prediction.fail(error)
        self.release()
