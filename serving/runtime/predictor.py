"""One process that answers for all versions of a store on its backbones, or on some of them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass

from serving.histogram import Buckets
from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.backbone_queues import BackboneQueues
from serving.runtime.device import choose_backbones
from serving.runtime.engine_usage import EngineUsage
from serving.runtime.fair_lock import FairLock
from serving.runtime.prediction_queue import PredictionQueue
from serving.runtime.request_times import Origin
from serving.runtime.served_backbone import BackboneState, EngineSettings, ServedBackbone
from serving.runtime.served_tasks import ServedTasks
from serving.runtime.served_versions import ServedVersions, StoreStatus
from serving.scheduling.scheduler import DEFAULT_SCHEDULE
from store.records.backbone import Preprocessing
from store.registry.store import Store, Version

PRESSED = 0.5  # of the rows that may wait


@dataclass(frozen=True)
class PredictorState:
    """What a predictor has done since it was made, and what it holds now."""

    backbones: tuple[BackboneState, ...]
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
    """Serve the tasks of a store; close it, or use it as a context manager.

    Without `backbone`, the tasks of all its backbones, else of the one or several that it names. Their engines run in
    turns on the same cores, and share the memory of tasks and of activations.

    With `batch_invariant`, an image and a task give the same bytes whatever else is in the batch; `schedule` is
    stretch, least-work or first-come (docs/engine.md).
    """

    def __init__(
        self,
        store: Store,
        *,
        backbone: str | Sequence[str] | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        batch_invariant: bool = False,
        schedule: str = DEFAULT_SCHEDULE,
    ) -> None:
        names = [backbone] if isinstance(backbone, str) else backbone
        self.records = choose_backbones(store, names)
        """The backbones that are served."""
        settings = EngineSettings(dtype, device, batch_invariant, schedule)
        self.usage = EngineUsage()
        """What the calls of all engines took."""
        beside = len(self.records)
        turns = FairLock() if beside > 1 else None
        self._backbones = {
            record.id.fingerprint: ServedBackbone(store, record, settings, beside=beside, turns=turns, total=self.usage)
            for record in self.records
        }
        self.versions = ServedVersions(store)
        self.tasks = ServedTasks(self.versions, self._backbones)
        self.queue = BackboneQueues(
            {
                fingerprint: PredictionQueue(self.tasks, served.decoding, served.loop)
                for fingerprint, served in self._backbones.items()
            }
        )
        """Where requests wait whose versions are known."""

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is queued, then stop and release the versions."""
        for served in self._backbones.values():
            served.decoding.close()
        for served in self._backbones.values():
            served.loop.close()
        self.versions.close()

    def check(self) -> None:
        """Raise `RuntimeError` where an engine's thread has stopped or is stuck and no request will be answered."""
        for served in self._backbones.values():
            served.loop.check()

    def check_room(self, tenant: str | None = None) -> None:
        """Raise `OverloadedError` where an image of this tenant would not be decoded now; nothing is queued."""
        self.queue.check_open()
        for served in self._backbones.values():
            served.decoding.check_room(tenant or "")

    @property
    def pressed(self) -> bool:
        """Whether so much waits for an engine that requests will be refused soon."""
        return max(served.scheduler.fullness for served in self._backbones.values()) >= PRESSED

    def preprocessing(self, version: Version) -> Preprocessing:
        """Return what the backbone of a version that is served takes as an image."""
        return self._backbones[version.manifest.backbone].record.id.preprocessing

    def state(self) -> PredictorState:
        usage, cache = self.usage, self.tasks.cache
        states = tuple(served.state() for served in self._backbones.values())
        engine = next(iter(self._backbones.values())).engine
        return PredictorState(
            backbones=states,
            dtype=str(engine.dtype).removeprefix("torch."),
            device=str(engine.device),
            engine_calls=usage.calls,
            busy_s=usage.busy_s,
            row_blocks=usage.row_blocks,
            batch_rows=usage.batch_rows.buckets(),
            waiting=sum(state.waiting for state in states),
            decoding=sum(state.decoding for state in states),
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
