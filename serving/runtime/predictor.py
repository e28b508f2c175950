"""Answer requests: resolve the task, decode the image, load the task if it is not in memory, queue for the engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing

from serving.engine.engine import Engine
from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.adapter_cache import AdapterCache, Pin
from serving.runtime.decoding import decode_source
from serving.runtime.device import choose_backbone, choose_dtype, max_rows
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.futures import call_when_all_done, fail_all
from serving.runtime.prediction_request import PendingPrediction, PredictionRequest
from serving.runtime.served_versions import ServedVersions
from serving.scheduling.deadlines import late
from serving.scheduling.scheduler import Scheduler
from store.errors import BackboneMismatchError, InvalidSettingError, OverloadedError
from store.registry.store import Store, Version
from store.weights.backbones import open_backbone
from store.weights.forms import TaskWeights
from store.weights.load_task import load_task
from store.weights.preprocessing import make_transform

CACHE_NBYTES = 1 << 30


class Predictor:
    """Serve every task of one backbone out of a store; close it, or use it as a context manager.

    With `batch_invariant`, an image and a task give the same bytes whatever else is in the batch.
    """

    def __init__(
        self,
        store: Store,
        *,
        backbone: str | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        batch_invariant: bool = False,
    ) -> None:
        self._store = store
        self.record = choose_backbone(store, backbone)
        self._backbone = open_backbone(store, self.record)
        self._engine = Engine(
            self._backbone, dtype=choose_dtype(dtype, device), device=device, batch_invariant=batch_invariant
        )
        self._transform = make_transform(self.record.id.preprocessing)
        self._cache = AdapterCache(budget_nbytes=CACHE_NBYTES)
        self._loop = EngineLoop(self._engine, Scheduler(max_rows=max_rows(self._backbone, self._engine.dtype)))
        self.versions = ServedVersions(store)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is queued, then stop and release the versions."""
        self._loop.close()
        self.versions.close()

    def check(self) -> None:
        """Raise `RuntimeError` where the engine's thread has stopped and no request will ever be answered."""
        if not self._loop.is_alive:
            raise RuntimeError("the engine's thread has stopped: restart the replica")

    def predict(self, ref: str, image: ImageSource) -> Prediction:
        """Predict one image and wait for the result."""
        return self.submit(ref, image).result()

    def submit(self, ref: str, image: ImageSource, *, deadline: float | None = None) -> Future[Prediction]:
        """Do what `submit_many` does for one task, after loading it; an error of the load is raised here."""
        version = self._resolve(ref)
        with closing(self._acquire(version)) as pin:
            pin.weights.result()
            return self._queue([version], image, deadline)[0]

    def submit_many(
        self, refs: Sequence[str], image: ImageSource, *, deadline: float | None = None
    ) -> tuple[Future[Prediction], ...]:
        """Resolve, decode and queue one image for these tasks, whose shared blocks run once; futures in their order.

        The deadline is a time of `time.monotonic`: a prediction that would come later gets a `DeadlineError`, and is
        not run; neither is a cancelled one. Errors of the request are raised here; later errors, as of loading a task
        that is not in memory, are set on the futures.
        """
        if not refs:
            raise InvalidSettingError("the request names no task: give at least one ref")
        return self._queue([self._resolve(ref) for ref in refs], image, deadline)

    def _queue(
        self, versions: Sequence[Version], image: ImageSource, deadline: float | None
    ) -> tuple[Future[Prediction], ...]:
        if self._loop.closing:
            raise OverloadedError("the server is stopping: ask again once it is back")
        if deadline is not None and (over_s := time.monotonic() - deadline) > 0:
            raise late(over_s)
        with ExitStack() as stack:
            pins = [stack.enter_context(closing(self._acquire(version))) for version in versions]
            pixels = self._transform(decode_source(image))
            pinned = stack.pop_all()
        futures: tuple[Future[Prediction], ...] = tuple(Future() for _ in versions)

        def submit() -> None:
            try:
                weights = [pin.weights.result() for pin in pins]
            except BaseException as error:  # of a load, on the cache's own thread: the waiting clients must get it
                pinned.close()
                fail_all(futures, error)
                return
            triples = zip(versions, weights, futures, strict=True)
            pending = tuple(PendingPrediction(v.task, v.number, loaded, future) for v, loaded, future in triples)
            self._loop.submit(PredictionRequest(pixels, pending, deadline, pinned.close))

        call_when_all_done([pin.weights for pin in pins], submit)
        return futures

    def _resolve(self, ref: str) -> Version:
        version = self.versions.resolve(ref)
        if version.manifest.backbone != self.record.id.fingerprint:
            raise BackboneMismatchError(
                f"{version.task}:{version.number} uses backbone {version.manifest.backbone_name!r}, "
                f"this server holds {self.record.name!r}: ask one that was started with that `backbone=`"
            )
        return version

    def _acquire(self, version: Version) -> Pin:
        self.versions.use(version)
        return self._cache.acquire(version.digest, lambda: self._load(version))

    def _load(self, version: Version) -> TaskWeights:
        self.versions.hold(version)
        backbone, engine = self._backbone.tensors, self._engine
        return load_task(self._store, version.manifest, backbone=backbone, dtype=engine.dtype, device=engine.device)
