"""What a process does for one job of many: check it, try settings of it for some epochs, or tune it to its end."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from onetrunk.many.fit_job import FitJob
from onetrunk.workflows import borrow_backbone
from serving.cluster.task_plan import Payload, Report, Work
from serving.runtime.device import set_cpu_threads
from sls.data.dataset import Dataset
from sls.data.loading import load_dataset
from sls.pipeline.config import FitConfig
from sls.pipeline.finished import clear_unfinished, full_folder, read_finished
from sls.pipeline.fit import fit
from sls.pipeline.preflight import check_run
from sls.progress import Progress, ProgressCallback
from sls.training.feature_cache import FeatureCache
from store.backends.atomic_write import replace_file
from store.errors import DataError
from store.malloc import keep_freed_memory
from store.records.manifest import Card
from store.weights.backbones import Backbone

CURVE = "curve.json"
open_backbone = functools.lru_cache(maxsize=4)(borrow_backbone)  # a process does many jobs on few backbones


_loaded: dict[tuple[object, ...], Dataset] = {}
"""The data that this process loaded last: trials and the fit of one task need the same."""


def load(job: FitJob, run: str, progress: ProgressCallback) -> Dataset:
    """Load the job's data, or return them as this process has loaded them in this run."""
    key = (run, job.data, job.data_root, job.limit, job.seed, job.allow_duplicates)
    if key not in _loaded:
        _loaded.clear()
        root = Path(job.data_root) if job.data_root else None
        _loaded[key] = load_dataset(
            job.data,
            root=root,
            limit=job.limit,
            seed=job.seed,
            allow_duplicates=job.allow_duplicates,
            progress=progress,
        )
    return _loaded[key]


class EnoughError(Exception):
    """Ends a trial: it has run for as many epochs as were asked for."""


@dataclass(frozen=True)
class Tuner:
    """What all jobs of a run share: its name, the store's address, its folder, and the room of the shared features.

    `threads` are those of this process; None leaves them as they are.
    """

    store: str
    catalogue: str | None
    out: str
    cache: str
    cache_nbytes: int
    run: str
    threads: int | None

    def __call__(self, payload: Payload, report: Report) -> Payload:
        job, began = FitJob.from_dict(payload["job"]), time.monotonic()

        def progress(step: Progress) -> None:
            report(asdict(step))

        dataset = load(job, self.run, progress)
        backbone = open_backbone(self.store, job.backbone, catalogue=self.catalogue)
        if payload["kind"] == "check":
            return self._check(job, dataset, backbone)
        name = cast(str, payload["choice"])
        config, out = job.choices[name] if name else job.config, Path(cast(str, payload["folder"]))
        out.mkdir(parents=True, exist_ok=True)
        with only_one(out.with_name(f".{out.name}.lock")):
            if payload["kind"] == "try":
                trial = _Trial(dataset, backbone, config, out, self._cache(), cast(int, payload["epochs"]))
                return {"accuracy": trial.accuracy(progress)}
            card = read_finished(out, dataset, backbone, config)
            resumed = card is not None
            if card is None:
                fit(dataset, backbone, out=out, config=config, progress=progress, cache=self._cache())
                card = read_finished(out, dataset, backbone, config)
                assert card is not None, "it was just made"
            return {**result_of(out, card), "resumed": resumed, "seconds": time.monotonic() - began}

    def _check(self, job: FitJob, dataset: Dataset, backbone: Backbone) -> Payload:
        """Raise what the fit would raise before its first epoch."""
        for config in job.choices.values() or (job.config,):
            check_run(dataset, backbone, config.tune, max_drop=config.max_drop, out=Path(self.out) / job.folder_name)
        if job.choices and not len(dataset.validation):
            raise DataError(f"{dataset.name}: settings are chosen by validation images, and there are none: give some")
        return {"train": len(dataset.train), "notes": dataset.notes}

    def _cache(self) -> FeatureCache:
        return FeatureCache(Path(self.cache), limit_nbytes=self.cache_nbytes)


def make_tuner(settings: Payload) -> Work:
    """Prepare this process to tune, and return what does the jobs."""
    keep_freed_memory()
    tuner = Tuner(**cast(Mapping[str, Any], settings))
    if tuner.threads is not None:
        set_cpu_threads(tuner.threads)
    return tuner


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Wait until no other process works in the folder: one that was killed may need a moment to end."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def result_of(out: Path, card: Card) -> dict[str, object]:
    """Return what a finished fit left in the folder."""
    certificate, full = card.certificate, full_folder(out)
    assert certificate is not None
    return {
        "folder": str(out / "cut"),
        "full": full and str(full),
        "depth": card.prune_index.depth,
        "blocks": card.prune_index.blocks,
        "accuracy": certificate.cut.value,
        "accuracy_full": certificate.full and certificate.full.value,
    }


@dataclass(frozen=True)
class _Trial:
    """Settings that are tuned for some of their epochs, in a folder from which the fit with them goes on.

    A file there has the validation accuracy after each epoch, so that a trial that ran longer tells it too.
    """

    dataset: Dataset
    backbone: Backbone
    config: FitConfig
    out: Path
    cache: FeatureCache
    epochs: int

    def accuracy(self, progress: Callable[[Progress], None]) -> float:
        curve = self._read()
        if self.epochs in curve:
            return curve[self.epochs]

        def note(step: Progress) -> None:
            progress(step)
            if step.stage == "tune":
                assert step.accuracy is not None
                curve[step.step] = step.accuracy
                self._write(curve)
            if (step.stage == "tune" and step.step >= self.epochs) or self._ran_out(curve):
                raise EnoughError

        for _ in range(2):
            with suppress(EnoughError):
                fit(self.dataset, self.backbone, out=self.out, config=self.config, progress=note, cache=self.cache)
            if self.epochs in curve or self._ran_out(curve):
                return curve[min(self.epochs, max(curve))]
            # It was ended between an epoch's checkpoint and its accuracy: what it had is not known, so it begins again.
            curve.clear()
            clear_unfinished(self.out)
        raise AssertionError("a trial from its first epoch knows all of its accuracies")

    def _ran_out(self, curve: Mapping[int, float]) -> bool:
        """Whether patience ended the training after the last of these epochs, none of which is missing."""
        patience = self.config.tune.patience
        if not patience or not curve or len(curve) < max(curve):
            return False
        best = min(curve, key=lambda epoch: (-curve[epoch], epoch))
        return max(curve) - best >= patience

    @property
    def _inputs(self) -> str:
        fingerprint = self.backbone.record.id.fingerprint
        return json.dumps([fingerprint, self.dataset.digest, asdict(self.config.effective)], sort_keys=True)

    def _read(self) -> dict[int, float]:
        try:
            kept = json.loads((self.out / CURVE).read_bytes())
        except (OSError, ValueError):
            return {}
        same = kept["inputs"] == self._inputs
        return {int(epoch): accuracy for epoch, accuracy in kept["accuracies"].items()} if same else {}

    def _write(self, curve: Mapping[int, float]) -> None:
        replace_file(self.out / CURVE, json.dumps({"inputs": self._inputs, "accuracies": curve}).encode())
