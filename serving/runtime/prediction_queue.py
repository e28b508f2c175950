"""From an image and versions to a request of the engine: decode the image while the weights are loaded, then queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing

from torch import Tensor

from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.adapter_cache import Pin
from serving.runtime.decode_pool import DecodePool
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.futures import call_when_all_done, fail_all
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.runtime.served_tasks import ServedTasks
from serving.scheduling.deadlines import late
from store.errors import OverloadedError
from store.registry.store import Version

Predictions = tuple[Future[Prediction], ...]


class PredictionQueue:
    """What waits for its pixels, its weights and its turn; `deadline` is a time of `time.monotonic`.

    `tenant` is whose share of decoding and of the engine a request takes.
    """

    def __init__(self, tasks: ServedTasks, decoding: DecodePool, loop: EngineLoop) -> None:
        self._tasks, self._decoding, self._loop = tasks, decoding, loop

    def submit(
        self, versions: Sequence[Version], image: ImageSource, *, deadline: float | None, tenant: str | None
    ) -> Predictions:
        """Decode on this thread, whatever it takes, and queue; a failure to decode is raised."""
        self._check_time(deadline)
        with ExitStack() as stack:
            pins = [stack.enter_context(closing(self._tasks.acquire(version))) for version in versions]
            pixels: Future[Tensor] = Future()
            pixels.set_result(self._decoding.decode(image))
            return self._queue(versions, pixels, pins, stack.pop_all(), deadline, tenant)

    def submit_encoded(
        self, versions: Sequence[Version], image: bytes, *, deadline: float | None, tenant: str | None
    ) -> Predictions:
        """Queue and return at once, since a large image is decoded elsewhere.

        Raises `ImageError` and `OverloadedError` where that is known at once; other errors are set on the futures.
        Once all futures are cancelled, the image is not decoded any more.
        """
        self._check_time(deadline)
        with ExitStack() as stack:
            pins = [stack.enter_context(closing(self._tasks.acquire(version))) for version in versions]
            pixels = self._decoding.submit(image, key=tenant or "", deadline=deadline)
            return self._queue(versions, pixels, pins, stack.pop_all(), deadline, tenant)

    def check_open(self) -> None:
        """Raise `OverloadedError` where nothing is queued any more."""
        if self._loop.closing:
            raise OverloadedError("the server is stopping: ask again once it is back")

    def _check_time(self, deadline: float | None) -> None:
        self.check_open()
        if deadline is not None and (over_s := time.monotonic() - deadline) > 0:
            raise late(over_s)

    def _queue(
        self,
        versions: Sequence[Version],
        pixels: Future[Tensor],
        pins: Sequence[Pin],
        pinned: ExitStack,
        deadline: float | None,
        tenant: str | None,
    ) -> Predictions:
        """Queue for the engine once pixels and weights are there; `pinned` is closed once they are not needed."""
        futures: Predictions = tuple(Future() for _ in versions)

        def submit() -> None:
            try:
                image = pixels.result()
                weights = [pin.weights.result() for pin in pins]
            except BaseException as error:  # on the thread of a load or a decoder: the waiting clients must get it
                pinned.close()
                fail_all(futures, error)
                return
            triples = zip(versions, weights, futures, strict=True)
            pending = tuple(PendingPrediction(v.task, v.number, loaded, future) for v, loaded, future in triples)
            self._loop.submit(PredictionRequest(image, pending, deadline, pinned.close, tenant))

        call_when_all_done(futures, pixels.cancel)
        call_when_all_done([pixels, *(pin.weights for pin in pins)], submit)
        return futures
