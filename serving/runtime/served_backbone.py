"""One backbone of a predictor: its engine, its decoders, and the requests that wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from serving.engine.engine import Engine
from serving.engine.row_plan import EngineTask
from serving.runtime.decode_pool import DecodePool
from serving.runtime.device import choose_dtype, max_rows
from serving.runtime.engine_loop import EngineLoop
from serving.runtime.engine_usage import EngineUsage
from serving.runtime.fair_lock import FairLock
from serving.runtime.prediction_request import PredictionRequest
from serving.scheduling.scheduler import Scheduler
from store.records.backbone import BackboneRecord
from store.records.manifest import Manifest
from store.registry.store import Store
from store.weights.backbones import open_backbone
from store.weights.load_task import load_prepared


@dataclass(frozen=True)
class EngineSettings:
    """How every engine of a predictor runs."""

    dtype: str
    device: str
    batch_invariant: bool
    schedule: str


@dataclass(frozen=True)
class BackboneState:
    """What the engine of one backbone has done, and what waits for it."""

    name: str
    blocks: int
    engine_calls: int
    busy_s: float
    row_blocks: int
    waiting: int
    decoding: int


class ServedBackbone:
    """Closed in the order decoding, loop: what is decoded is still answered."""

    def __init__(
        self,
        store: Store,
        record: BackboneRecord,
        settings: EngineSettings,
        *,
        beside: int,
        turns: FairLock | None,
        total: EngineUsage,
    ) -> None:
        """Open it; `beside` is how many backbones share the memory and the `turns`, `total` counts all of them."""
        self.record, self._store = record, store
        backbone = open_backbone(store, record)
        self._tensors = backbone.tensors
        self.engine = Engine(
            backbone,
            dtype=choose_dtype(settings.dtype, settings.device),
            device=settings.device,
            batch_invariant=settings.batch_invariant,
        )
        self.decoding = DecodePool(record.id.preprocessing)
        rows = max(1, max_rows(backbone, self.engine.dtype) // beside)
        self.scheduler: Scheduler[PredictionRequest] = Scheduler(schedule=settings.schedule, max_rows=rows)
        self.loop = EngineLoop(self.engine, self.scheduler, turns=turns, usage=EngineUsage(total))

    def load(self, manifest: Manifest) -> EngineTask:
        """Load the weights of a version that uses this backbone."""
        engine = self.engine
        return load_prepared(
            self._store, manifest, engine.prepare, backbone=self._tensors, dtype=engine.dtype, device=engine.device
        )

    def state(self) -> BackboneState:
        usage = self.loop.usage
        return BackboneState(
            self.record.name,
            self.record.blocks,
            usage.calls,
            usage.busy_s,
            usage.row_blocks,
            len(self.scheduler),
            self.decoding.waiting,
        )
