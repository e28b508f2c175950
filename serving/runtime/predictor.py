"""One process that answers for all versions of a store on one backbone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

from serving.engine.engine import Engine
from serving.histogram import Buckets
from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.decode_pool import DecodePool
from serving.runtime.device import choose_backbone, choose_dtype, max_rows
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.engine_usage import EngineUsage
from serving.runtime.prediction_queue import PredictionQueue
from serving.runtime.prediction_request import PredictionRequest
from serving.runtime.request_times import Origin
from serving.runtime.served_tasks import ServedTasks
from serving.runtime.served_versions import ServedVersions, StoreStatus
from serving.scheduling.scheduler import DEFAULT_SCHEDULE, Scheduler
from store.registry.store import Store, Version
from store.weights.backbones import open_backbone

PRESSED = 0.5  # of the rows that may wait


@dataclass(frozen=True)
class PredictorState:
    """What a predictor has done since it was made, and what it holds now."""

    backbone: str
    blocks: int
    dtype: str
    device: str
    engine_calls: int
    busy_s: float
    row_blocks: int
    """Blocks that ran, counted for each row."""
    batch_rows: Buckets
    waiting: int
    """Images that wait for the engine or are in it."""
    decoding: int
    """Images that wait to be decoded."""
    cache_hits: int
    cache_loads: int
    cache_evictions: int
    cache_nbytes: int
    cache_tasks: int
    store: StoreStatus


class Predictor:
    """Serve every task of one backbone out of a store; close it, or use it as a context manager.

    With `batch_invariant`, an image and a task give the same bytes whatever else is in the batch; `schedule` is
    stretch, least-work or first-come (docs/engine.md).
    """

    def __init__(
        self,
        store: Store,
        *,
        backbone: str | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        batch_invariant: bool = False,
        schedule: str = DEFAULT_SCHEDULE,
    ) -> None:
        self.record = choose_backbone(store, backbone)
        self._backbone = open_backbone(store, self.record)
        self._engine = Engine(
            self._backbone, dtype=choose_dtype(dtype, device), device=device, batch_invariant=batch_invariant
        )
        self._decoding = DecodePool(self.record.id.preprocessing)
        self.versions = ServedVersions(store)
        self.tasks = ServedTasks(store, self.versions, self._backbone, self._engine)
        rows = max_rows(self._backbone, self._engine.dtype)
        self._scheduler: Scheduler[PredictionRequest] = Scheduler(schedule=schedule, max_rows=rows)
        self._loop = EngineLoop(self._engine, self._scheduler)
        self.queue = PredictionQueue(self.tasks, self._decoding, self._loop)
        """Where requests wait whose versions are known."""

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is queued, then stop and release the versions."""
        self._decoding.close()
        self._loop.close()
        self.versions.close()

    def check(self) -> None:
        """Raise `RuntimeError` where the engine's thread has stopped or is stuck and no request will be answered."""
        self._loop.check()

    def check_room(self, tenant: str | None = None) -> None:
        """Raise `OverloadedError` where an image of this tenant would not be decoded now; nothing is queued."""
        self.queue.check_open()
        self._decoding.check_room(tenant or "")

    @property
    def pressed(self) -> bool:
        """Whether so much waits for the engine that requests will be refused soon."""
        return self._scheduler.fullness >= PRESSED

    @property
    def usage(self) -> EngineUsage:
        return self._loop.usage

    def state(self) -> PredictorState:
        usage, cache = self._loop.usage, self.tasks.cache
        return PredictorState(
            backbone=self.record.name,
            blocks=self.record.blocks,
            dtype=str(self._engine.dtype).removeprefix("torch."),
            device=str(self._engine.device),
            engine_calls=usage.calls,
            busy_s=usage.busy_s,
            row_blocks=usage.row_blocks,
            batch_rows=usage.batch_rows.buckets(),
            waiting=len(self._scheduler),
            decoding=self._decoding.waiting,
            cache_hits=cache.hits,
            cache_loads=cache.loads,
            cache_evictions=cache.evictions,
            cache_nbytes=cache.nbytes,
            cache_tasks=len(cache.resident),
            store=self.versions.status(),
        )

    def predict(self, ref: str, image: ImageSource) -> Prediction:
        """Predict one image and wait for the result."""
        return self.submit(ref, image).result()

    def submit(
        self, ref: str, image: ImageSource, *, deadline: float | None = None, tenant: str | None = None
    ) -> Future[Prediction]:
        """Do what `submit_many` does for one task, after loading it; an error of the load is raised here."""
        (version,) = self._choose([ref])
        with closing(self.tasks.acquire(version)) as pin:
            pin.weights.result()
            return self.queue.submit([version], image, Origin(deadline, tenant))[0]

    def submit_many(
        self, refs: Sequence[str], image: ImageSource, *, deadline: float | None = None, tenant: str | None = None
    ) -> tuple[Future[Prediction], ...]:
        """Resolve, decode and queue one image for these tasks, whose shared blocks run once; futures in their order.

        The deadline is a time of `time.monotonic`: a prediction that would come later gets a `DeadlineError`, and is
        not run; neither is a cancelled one. Tenants have like shares of the engine. Errors of the request are raised
        here; later errors, as of loading a task that is not in memory, are set on the futures.
        """
        return self.queue.submit(self._choose(refs), image, Origin(deadline, tenant))

    def _choose(self, refs: Sequence[str]) -> list[Version]:
        """Return the versions that answer this request; of a split alias, by chance."""
        key = secrets.token_hex(8)
        return [choice.version for choice in self.tasks.choose(refs, key)]
