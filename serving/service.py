"""Answer requests: resolve the task, decode the image, queue it, and run batches on one engine thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from serving.engine import Engine
from serving.leases import Leases
from serving.pool import Pool
from serving.scheduler import Scheduler
from store.backbones import open_backbone
from store.errors import (
    BackboneMismatchError,
    BackboneNotFoundError,
    InvalidSettingError,
    OneTrunkError,
    OverloadedError,
)
from store.forms import TaskWeights
from store.images import decode, make_transform
from store.lowering import lower
from store.records import BackboneRecord
from store.store import Store, Version

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POOL_NBYTES = 1 << 30
REF_VALID_S = 0.25  # how long a moved alias may go unnoticed


@dataclass(frozen=True)
class Answer:
    """What one image got from one version: labels with probabilities, best first, and all logits in label order."""

    task: str
    version: int
    digest: str
    depth: int
    labels: tuple[str, ...]
    logits: Tensor

    def to_dict(self, *, top: int = 5, logits: bool = False) -> dict[str, object]:
        scores, indices = self.logits.softmax(dim=0).topk(min(top, len(self.labels)))
        best = [
            {"label": self.labels[index], "score": score}
            for score, index in zip(scores.tolist(), indices.tolist(), strict=True)
        ]
        answer: dict[str, object] = {"task": self.task, "version": self.version, "depth": self.depth, "top": best}
        return {**answer, "logits": self.logits.tolist()} if logits else answer


@dataclass(frozen=True)
class Request:
    """One image for one version, ready to run; `held` keeps the task resident until the answer is out."""

    version: Version
    pixels: Tensor
    weights: TaskWeights
    held: ExitStack
    answer: Future[Answer] = field(default_factory=Future)


class Service:
    """Serve every task of one backbone out of a store; close it, or use it as a context manager."""

    def __init__(self, store: Store, *, backbone: str | None = None, dtype: str = "auto", device: str = "cpu") -> None:
        self._store = store
        self.record = choose_backbone(store, backbone)
        self._backbone = open_backbone(store, self.record)
        self._engine = Engine(self._backbone, dtype=choose_dtype(dtype, device), device=device)
        self._transform = make_transform(self.record.id.preprocessing)
        self._pool = Pool(budget_nbytes=POOL_NBYTES)
        self._scheduler: Scheduler[Request] = Scheduler()
        self._leases = Leases(store)
        self._refs: dict[str, Version] = {}
        self._refs_since = time.monotonic()
        self._refs_lock = threading.Lock()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is queued, then stop and let the versions go."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()
        self._leases.close()

    def check(self) -> None:
        """Raise where the engine's thread is gone and no request will ever be answered."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has stopped: restart the replica")

    def predict(self, ref: str, image: bytes) -> Answer:
        """Answer one image and wait for it."""
        return self.submit(ref, image).result()

    def submit(self, ref: str, image: bytes) -> Future[Answer]:
        """Prepare and queue one image; nothing stays held if the caller goes away."""
        return self.enqueue(self.prepare(ref, image))

    def prepare(self, ref: str, image: bytes) -> Request:
        """Resolve, decode and load; everything that can be refused is refused here, off the engine's thread."""
        version = self._resolve(ref)
        if version.manifest.backbone != self.record.id.fingerprint:
            raise BackboneMismatchError(
                f"{version.task}:{version.version} stands on backbone {version.manifest.backbone_name!r}, "
                f"this server holds {self.record.name!r}: ask one started with that --backbone"
            )
        pixels = self._transform(decode(image))
        self._leases.hold(version.digest)
        with ExitStack() as stack:
            weights = stack.enter_context(self._pool.lease(version.digest, lambda: self._load(version)))
            return Request(version, pixels, weights, stack.pop_all())

    def enqueue(self, request: Request) -> Future[Answer]:
        """Queue a prepared request; raise `OverloadedError` where the queue is full or the service is closing."""
        try:
            with self._wake:
                if self._closing:
                    raise OverloadedError("the server is stopping: ask again once it is back")
                self._scheduler.admit(request)
                self._wake.notify()
        except OneTrunkError:
            request.held.close()
            raise
        return request.answer

    def _resolve(self, ref: str) -> Version:
        with self._refs_lock:
            if time.monotonic() - self._refs_since > REF_VALID_S:
                self._refs, self._refs_since = {}, time.monotonic()
            refs = self._refs
        version = refs.get(ref) or self._store.resolve(ref)
        refs[ref] = version
        return version

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: len(self._scheduler) or self._closing)
                batch = self._scheduler.take()
            if not batch:
                return
            self._answer(batch)

    def _answer(self, batch: Sequence[Request]) -> None:
        live = [request for request in batch if request.answer.set_running_or_notify_cancel()]
        try:
            if live:
                self._compute(live)
        except BaseException as error:  # those who wait must hear of it, and the next batch must run
            for request in live:
                if not request.answer.done():
                    request.answer.set_exception(error)
        finally:
            for request in batch:
                request.held.close()

    def _compute(self, live: Sequence[Request]) -> None:
        pixels, weights = torch.stack([request.pixels for request in live]), [request.weights for request in live]
        for finished in self._engine.walk(pixels, weights):
            for row, logits in zip(finished.rows, finished.logits, strict=True):
                live[row].answer.set_result(_answer_of(live[row], logits.cpu()))

    def _load(self, version: Version) -> TaskWeights:
        manifest, read = version.manifest, self._store.read
        return lower(
            config=read(manifest.adapter.config),
            adapter=read(manifest.adapter.weights),
            head=read(manifest.head.weights),
            labels=read(manifest.head.labels),
            depth=manifest.depth,
            backbone=self._backbone.tensors,
            dtype=self._engine.dtype,
            device=self._engine.device,
        )


def _answer_of(request: Request, logits: Tensor) -> Answer:
    version = request.version
    return Answer(version.task, version.version, version.digest, version.manifest.depth, request.weights.labels, logits)


def choose_dtype(name: str, device: str) -> torch.dtype:
    """Return the dtype of this name; `auto` is bfloat16 where the device multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise InvalidSettingError(f"dtype {name!r} is not served: use auto or one of {', '.join(DTYPES)}")
    return DTYPES[name]


def native_bfloat16(device: str) -> bool:
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def choose_backbone(store: Store, name: str | None) -> BackboneRecord:
    """Return the backbone of this name, or the store's only one."""
    if name is not None:
        return store.backbone(name)
    records = store.backbones()
    if not records:
        raise BackboneNotFoundError(f"{store.url} holds no backbone: publish a task, or `onetrunk backbone add NAME`")
    if len(records) > 1:
        names = ", ".join(record.name for record in records)
        raise InvalidSettingError(f"{store.url} holds {len(records)} backbones ({names}): choose one with --backbone")
    return records[0]
