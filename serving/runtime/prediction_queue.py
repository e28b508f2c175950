"""From an image and versions to a request of the engine: decode the image while the weights are loaded, then queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing

from torch import Tensor

from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.adapter_cache import Pin
from serving.runtime.decode_pool import DecodePool
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.futures import call_when_all_done, done, fail_all
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.runtime.request_times import Origin
from serving.runtime.served_tasks import ServedTasks
from serving.scheduling.deadlines import late
from store.errors import OverloadedError
from store.registry.store import Version

Predictions = tuple[Future[Prediction], ...]


class PredictionQueue:
    """What waits for its pixels, its weights and its turn."""

    def __init__(self, tasks: ServedTasks, decoding: DecodePool, loop: EngineLoop) -> None:
        self._tasks, self._decoding, self._loop = tasks, decoding, loop

    def submit(self, versions: Sequence[Version], image: ImageSource, origin: Origin) -> Predictions:
        """Decode on this thread, whatever it takes, and queue; a failure to decode is raised."""
        return self._submit(versions, lambda: done(self._decoding.decode(image)), origin)

    def submit_pixels(self, versions: Sequence[Version], pixels: Tensor, origin: Origin) -> Predictions:
        """Queue an image that is the backbone's input already: (3, height, width) float32, normalised."""
        return self._submit(versions, lambda: done(pixels), origin)

    def submit_encoded(self, versions: Sequence[Version], image: bytes, origin: Origin) -> Predictions:
        """Queue and return at once, since a large image is decoded elsewhere.

        Raises `ImageError` and `OverloadedError` where that is known at once; other errors are set on the futures.
        Once all futures are cancelled, the image is not decoded any more.
        """
        return self._submit(
            versions,
            lambda: self._decoding.submit(image, key=origin.tenant or "", deadline=origin.deadline),
            origin,
        )

    def check_open(self) -> None:
        """Raise `OverloadedError` where nothing is queued any more."""
        if self._loop.closing:
            raise OverloadedError("the server is stopping: ask again once it is back")

    def _submit(self, versions: Sequence[Version], decode: Callable[[], Future[Tensor]], origin: Origin) -> Predictions:
        self._check_time(origin.deadline)
        with ExitStack() as stack:
            pins = [stack.enter_context(closing(self._tasks.acquire(version))) for version in versions]
            return self._queue(versions, decode(), pins, stack.pop_all(), origin)

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
        origin: Origin,
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
            request = PredictionRequest(image, pending, origin.deadline, pinned.close, origin.tenant, origin.times)
            if origin.times is not None:
                origin.times.queued = True
            self._loop.submit(request)

        if origin.times is not None:
            origin.times.watch(pixels, [pin.weights for pin in pins])
        call_when_all_done(futures, pixels.cancel)
        call_when_all_done([pixels, *(pin.weights for pin in pins)], submit)
        return futures
