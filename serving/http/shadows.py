"""Ask the shadows of splits what was answered: their answers are compared and counted, and sent to nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from serving.prediction import Prediction
from serving.runtime.choices import SHADOW, Choice
from serving.runtime.predictor import Predictor
from serving.runtime.request_times import Origin
from serving.telemetry.request_record import RequestRecord
from serving.telemetry.split_counters import Outcome, SplitCounters
from store.errors import OnetrunkError, OverloadedError

MOST_WAITING, MOST_NBYTES = 64, 64 << 20
"""Images that shadows are asked about at a time, and their bytes."""
TIME_S = 5.0
Image = bytes | Tensor


class Shadows:
    """Used by the event loop alone. A shadow is asked once the answer is there, so that it delays none."""

    def __init__(self, predictor: Predictor, counters: SplitCounters) -> None:
        self._predictor, self._counters = predictor, counters
        self._waiting = self._nbytes = 0

    def ask(
        self, record: RequestRecord, images: Sequence[Image], answers: Sequence[Prediction], share: str | None
    ) -> None:
        """Ask the shadow of each answer about its image; several answers may be about the only one."""
        for index, answer in enumerate(answers):
            choice = record.choice_of(index)
            if choice.shadow is not None:
                self._ask(choice, images[min(index, len(images) - 1)], answer.top(1)[0].label, share)

    def _ask(self, choice: Choice, image: Image, label: str, share: str | None) -> None:
        nbytes = len(image) if isinstance(image, bytes) else image.nbytes
        if self._waiting >= MOST_WAITING or self._nbytes + nbytes > MOST_NBYTES:
            self._counters.shadows_skipped += 1
            return
        assert choice.shadow is not None, "it is asked for"
        finish = partial(self._finish, choice, label, time.perf_counter(), nbytes)
        self._waiting += 1
        self._nbytes += nbytes
        queue, origin = self._predictor.queue, Origin(time.monotonic() + TIME_S, share)
        try:
            submit = queue.submit_encoded if isinstance(image, bytes) else queue.submit_pixels
            (future,) = submit([choice.shadow], image, origin)  # type: ignore[arg-type]  # each takes its kind
        except OnetrunkError as error:
            finish(failed(error))
            return
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda done: None if loop.is_closed() else loop.call_soon_threadsafe(finish, done))

    def _finish(self, choice: Choice, label: str, begun: float, nbytes: int, future: Future[Prediction]) -> None:
        self._waiting -= 1
        self._nbytes -= nbytes
        assert choice.shadow is not None, "it was asked"
        assert choice.split is not None, "it has the shadow"
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or isinstance(error, OverloadedError):  # of the load, and not of the version
            self._counters.shadows_skipped += 1
            return
        agrees = None if error is not None else future.result().top(1)[0].label == label
        outcome = Outcome(time.time(), error is not None, time.perf_counter() - begun, agrees)
        self._counters.count(choice.split, choice.shadow.number, SHADOW, outcome)


def failed(error: BaseException) -> Future[Prediction]:
    future: Future[Prediction] = Future()
    future.set_exception(error)
    return future
