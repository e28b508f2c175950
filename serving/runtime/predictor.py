"""Answer requests: resolve the task, decode the image, load what is not in memory, and queue it for the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from serving.engine.engine import Engine
from serving.runtime.adapter_cache import AdapterCache, Pin
from serving.runtime.device import choose_backbone, choose_dtype, row_nbytes
from serving.runtime.engine_loop import EngineLoop, PendingPrediction, PredictionRequest
from serving.runtime.version_leases import VersionLeases
from serving.scheduling.deadlines import late
from serving.scheduling.scheduler import Scheduler
from store.errors import (
    BackboneMismatchError,
    InvalidSettingError,
    OverloadedError,
)
from store.registry.store import Store, Version
from store.weights.backbones import open_backbone
from store.weights.forms import TaskWeights
from store.weights.load_task import load_task
from store.weights.preprocessing import decode, make_transform

POOL_NBYTES = 1 << 30
ACTIVATIONS_NBYTES = 1 << 30
REF_VALID_S = 0.25  # how long a moved alias may go unnoticed


@dataclass(frozen=True)
class Prediction:
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


class Predictor:
    """Serve every task of one backbone out of a store; close it, or use it as a context manager.

    With `batch_invariant`, an image and a task give the same bytes whatever else is asked at the same time.
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
        self._pool = AdapterCache(budget_nbytes=POOL_NBYTES)
        max_rows = max(1, ACTIVATIONS_NBYTES // row_nbytes(self._backbone, self._engine.dtype))
        self._runner: EngineLoop[Prediction] = EngineLoop(self._engine, Scheduler(max_rows=max_rows))
        self._leases = VersionLeases(store)
        self._refs: dict[str, Version] = {}
        self._refs_since = time.monotonic()
        self._refs_lock = threading.Lock()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer what is queued, then stop and let the versions go."""
        self._runner.close()
        self._leases.close()

    def check(self) -> None:
        """Raise where the engine's thread is gone and no request will ever be answered."""
        if not self._runner.is_alive:
            raise RuntimeError("the engine's thread has stopped: restart the replica")

    def predict(self, ref: str, image: bytes) -> Prediction:
        """Answer one image and wait for it."""
        return self.submit(ref, image).result()

    def submit(self, ref: str, image: bytes, *, deadline: float | None = None) -> Future[Prediction]:
        """Do what `submit_many` does for one task, once it is loaded; what loading raises is raised here."""
        version = self._resolve(ref)
        with closing(self._take(version)) as task:
            task.weights.result()
            return self._queue([version], image, deadline)[0]

    def submit_many(
        self, refs: Sequence[str], image: bytes, *, deadline: float | None = None
    ) -> tuple[Future[Prediction], ...]:
        """Resolve, decode and queue one image for these tasks, whose shared blocks run once; answers in their order.

        The deadline is a time of `time.monotonic`: an answer that would come after it becomes a `DeadlineError`, and
        is not run for, as is none that is cancelled. What a request is refused for is raised; what comes up later,
        as in loading a task that is not in memory, becomes of the answers.
        """
        if not refs:
            raise InvalidSettingError("the request names no task: give at least one ref")
        return self._queue([self._resolve(ref) for ref in refs], image, deadline)

    def _queue(
        self, versions: Sequence[Version], image: bytes, deadline: float | None
    ) -> tuple[Future[Prediction], ...]:
        if self._runner.closing:
            raise OverloadedError("the server is stopping: ask again once it is back")
        if deadline is not None and (over_s := time.monotonic() - deadline) > 0:
            raise late(over_s)
        with ExitStack() as stack:
            tasks = [stack.enter_context(closing(self._take(version))) for version in versions]
            pixels = self._transform(decode(image))
            held = stack.pop_all()
        answers: tuple[Future[Prediction], ...] = tuple(Future() for _ in versions)

        def start() -> None:
            try:
                weights = [task.weights.result() for task in tasks]
            except BaseException as error:  # of a load, on the pool's own thread: those who wait must hear of it
                held.close()
                for answer in answers:
                    if answer.set_running_or_notify_cancel():
                        answer.set_exception(error)
                return
            rows = [
                PendingPrediction(version.task, loaded, partial(_answer_of, version, loaded), answer)
                for version, loaded, answer in zip(versions, weights, answers, strict=True)
            ]
            self._runner.submit(PredictionRequest(pixels, tuple(rows), deadline, held.close))

        call_when_all_done([task.weights for task in tasks], start)
        return answers

    def _resolve(self, ref: str) -> Version:
        with self._refs_lock:
            if time.monotonic() - self._refs_since > REF_VALID_S:
                self._refs, self._refs_since = {}, time.monotonic()
            refs = self._refs
        version = refs.get(ref) or self._store.resolve(ref)
        refs[ref] = version
        if version.manifest.backbone != self.record.id.fingerprint:
            raise BackboneMismatchError(
                f"{version.task}:{version.version} stands on backbone {version.manifest.backbone_name!r}, "
                f"this server holds {self.record.name!r}: ask one started with that --backbone"
            )
        return version

    def _take(self, version: Version) -> Pin:
        self._leases.hold(version.digest)
        return self._pool.take(version.digest, lambda: self._load(version))

    def _load(self, version: Version) -> TaskWeights:
        return load_task(
            self._store,
            version.manifest,
            backbone=self._backbone.tensors,
            dtype=self._engine.dtype,
            device=self._engine.device,
        )


def _answer_of(version: Version, weights: TaskWeights, logits: Tensor) -> Prediction:
    return Prediction(version.task, version.version, version.digest, version.manifest.depth, weights.labels, logits)


def call_when_all_done(futures: Sequence[Future[TaskWeights]], act: Callable[[], None]) -> None:
    """Call once all are done: at once where they are, else on the thread that ends the last of them."""
    lock, left = threading.Lock(), len(futures)

    def count(_: Future[TaskWeights]) -> None:
        nonlocal left
        with lock:
            left -= 1
            is_last = left == 0
        if is_last:
            act()

    for future in futures:
        future.add_done_callback(count)
