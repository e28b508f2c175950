"""Tune many tasks: check all of them first, tune each wherever there is room, publish each as it is done."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onetrunk.many.fit_job import FAILED, PUBLISHED, TUNED, Checked, FitJob, FitOutcome
from onetrunk.many.search import Halving, begin
from onetrunk.workflows import adopt_backbone, check_names, check_publishable, publish_folder
from serving.addresses import absolute_catalogue, absolute_store
from serving.cluster.task_plan import DONE, PROGRESS, Event, TaskPlan
from serving.cluster.task_pool import TaskPool, task_pool
from serving.cpus import usable_cores
from sls.pipeline.finished import clear_unfinished
from sls.progress import Progress
from store.errors import ConflictError, InvalidSettingError, OnetrunkError
from store.registry.store import Store

LOCK, FEATURES, SETTINGS = ".lock", ".features", "settings"
CACHE_NBYTES = 4 << 30
CHECK = "check"

FitEvent = Progress | Checked | FitOutcome
Watch = Callable[[FitJob, FitEvent], None]
"""Hears that a job was checked, of each step of it, and at its end of its outcome."""


def ignore(_job: FitJob, _event: FitEvent) -> None:
    """Do nothing."""


def fit_many(
    store: Store | None,
    jobs: Sequence[FitJob],
    *,
    out: str | Path,
    catalogue: str | None = None,
    backbones: str | Path | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    prune: bool = True,
    cache_nbytes: int = CACHE_NBYTES,
    watch: Watch = ignore,
) -> list[FitOutcome]:
    """Tune the jobs over Ray and publish each in the store; return what came of each, in their order.

    On this machine there is a process for each core, or for each of `workers`, with one thread; 0 tunes in this
    process. `ray_address` names a Ray cluster, which runs as many at a time as it has room for; `out`, the data and the
    store must then be at the same paths on all of its nodes. `out` keeps the tasks' folders: the same call goes on from
    there, tunes no finished task again, and ends with the same bytes. Without a store nothing is published, and
    backbones are read from the store at the address `backbones`, or loaded by name. `catalogue` is that of the store,
    where it is not in its folder. `prune` ends the worse settings of a job with `choices` early. What frozen blocks
    make of images is shared by all jobs, in `cache_nbytes` at most.

    Everything that can be refused before an epoch is refused for all jobs before the first is tuned: the error has a
    note for each. What fails later is in the outcomes, and stops no other job. Only this process writes to the store.
    """
    check_jobs(store, jobs)
    root = Path(out)
    with _alone(root):
        workers = _workers(workers, ray_address, len(jobs))
        settings = {
            "store": absolute_store(backbones or "") if store is None else absolute_store(store.url),
            "catalogue": absolute_catalogue(catalogue),
            "out": str(root.resolve()),
            "cache": str(root.resolve() / FEATURES),
            "run": uuid.uuid4().hex,
            "threads": None if workers == 0 else 1,
            "cache_nbytes": cache_nbytes // max(1, workers or usable_cores()),
        }
        plan = TaskPlan("onetrunk.many.tuner:make_tuner", settings, workers, ray_address=ray_address)
        with task_pool(plan) as pool:
            _check_all(pool, jobs, watch)
            if store is not None:
                known = {name for record in store.backbones() for name in (record.name, record.id.fingerprint)}
                for name in dict.fromkeys(job.backbone for job in jobs if job.backbone not in known):
                    adopt_backbone(store, name)
            return _Run(store, pool, jobs, root, prune, watch).run()


def check_jobs(store: Store | None, jobs: Sequence[FitJob]) -> None:
    """Raise what is known to be wrong of the jobs without their data."""
    faults: list[str] = []
    if not jobs:
        raise InvalidSettingError("no task is given: give at least one")
    counts = Counter(job.folder_name for job in jobs)
    for job in jobs:
        try:
            if counts[job.folder_name] > 1:
                raise InvalidSettingError(
                    f"task {job.task!r} occurs {counts[job.folder_name]} times: give each one name"
                )
            if store is None:
                check_names(job.task, job.aliases)
            else:
                known = all(config.measures_drop for config in job.choices.values() or (job.config,))
                check_publishable(store, job.task, job.aliases, parent=job.parent, drop_known=known)
        except OnetrunkError as error:
            faults.append(f"{job.title}: {error}")
    refuse(faults, len(jobs))


def refuse(faults: Sequence[str], jobs: int) -> None:
    """Raise one error for all faults, if there are any, with a note for each."""
    if faults:
        error = InvalidSettingError(
            f"{len(faults)} of {jobs} tasks cannot be tuned as they are, and none was: correct them"
        )
        for fault in faults:
            error.add_note(fault)
        raise error


def _workers(workers: int | None, ray_address: str | None, jobs: int) -> int | None:
    """Return how many processes tune; None leaves it to the cluster."""
    if workers is None and ray_address is None:
        return max(1, min(usable_cores(), jobs))
    if workers is not None and workers < 0:
        raise InvalidSettingError(f"{workers} workers: give a number from 0, which tunes in this process")
    return workers


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder of the run, and share features there for its time; raise where another run holds it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InvalidSettingError(
            f"{root} cannot take the results ({error.strerror}): give a folder that this user may write as `out=`"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConflictError(f"another run works in {root}: wait until it ends, or choose another `out=`") from None
    shutil.rmtree(root / FEATURES, ignore_errors=True)  # of a run that was killed
    try:
        yield
    finally:
        shutil.rmtree(root / FEATURES, ignore_errors=True)
        os.close(descriptor)


def _check_all(pool: TaskPool, jobs: Sequence[FitJob], watch: Watch) -> None:
    """Load the data of every job, wherever there is room, and raise for all that cannot be tuned."""
    for number, job in enumerate(jobs):
        pool.submit(number, {"kind": CHECK, "job": job.to_dict()})
    faults: dict[int, str] = {}
    for event in pool.events():
        if event.kind == PROGRESS:
            watch(jobs[event.job], Progress(**event.value))
        elif event.kind == DONE:
            watch(jobs[event.job], Checked(event.value["train"], tuple(event.value["notes"])))
        else:
            faults[event.job] = f"{jobs[event.job].title}: {event.value['message']}"
    refuse([faults[number] for number in sorted(faults)], len(jobs))


@dataclass
class _Run:
    """The jobs on their way, each with the search for its settings."""

    store: Store | None
    pool: TaskPool
    jobs: Sequence[FitJob]
    root: Path
    prune: bool
    watch: Watch
    outcomes: dict[int, FitOutcome] = field(default_factory=dict)
    searches: list[Halving] = field(default_factory=list)
    asked: dict[int, tuple[int, str]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> list[FitOutcome]:
        for number, job in enumerate(self.jobs):
            configs = list(job.choices.values()) or [job.config]
            epochs = min(config.tune.epochs for config in configs)
            self.searches.append(begin(job.choices, epochs, prune=self.prune))
            self._go_on(number)
        for event in self.pool.events():
            number, choice = self.asked[event.job]
            if event.kind == PROGRESS:
                self.watch(self.jobs[number], Progress(**event.value))
            elif not self.searches[number].done:
                self._record(number, choice, event)
            elif event.kind != DONE:
                self._fail(number, event, choice)
            else:
                self._finish(number, choice, event.value)
        return [self.outcomes[number] for number in range(len(self.jobs))]

    def _go_on(self, number: int) -> None:
        """Ask for what is next for a job: the trials of a rung, or the fit with the settings that are left."""
        search, job = self.searches[number], self.jobs[number]
        for choice in search.alive:
            payload: dict[str, object] = {"job": job.to_dict(), "choice": choice}
            payload |= {"folder": str(self._folder(number, choice).resolve())}
            payload |= {"kind": "fit"} if search.done else {"kind": "try", "epochs": search.epochs}
            identifier = len(self.asked)
            self.asked[identifier] = (number, choice)
            self.pool.submit(identifier, payload)

    def _record(self, number: int, choice: str, event: Event) -> None:
        """Note what a trial has reached; a setting that fails is not tried further."""
        search = self.searches[number]
        if search.record(choice, event.value["accuracy"] if event.kind == DONE else None):
            if search.alive:
                self._go_on(number)
            else:
                self._fail(number, event, choice)

    def _folder(self, number: int, choice: str) -> Path:
        folder = self.root / self.jobs[number].folder_name
        if not choice:
            return folder
        return folder / SETTINGS / str(list(self.jobs[number].choices).index(choice) + 1)

    def _finish(self, number: int, choice: str, value: Mapping[str, Any]) -> None:
        job, folder, full = self.jobs[number], Path(value["folder"]), value["full"]
        for other in (self._folder(number, name) for name in job.choices if name != choice):
            clear_unfinished(other)  # the accuracies of the other settings stay
        version, problem = None, None
        try:
            if self.store is not None:
                version = publish_folder(self.store, job.task, folder, aliases=job.aliases, parent=job.parent)
        except (OnetrunkError, OSError) as error:
            problem = f"{error}; the tuned task is kept in {folder}"
        self._end(
            number,
            FitOutcome(
                job.task,
                FAILED if problem else PUBLISHED if version else TUNED,
                value["seconds"],
                problem,
                value["resumed"],
                folder,
                None if full is None else Path(full),
                value["depth"],
                value["blocks"],
                value["accuracy"],
                value["accuracy_full"],
                choice or None,
                version,
            ),
        )

    def _fail(self, number: int, event: Event, choice: str) -> None:
        problem = event.value["message"] + (f" (settings {choice})" if choice else "")
        self._end(number, FitOutcome(self.jobs[number].task, FAILED, time.monotonic() - self.began, problem))

    def _end(self, number: int, outcome: FitOutcome) -> None:
        self.outcomes[number] = outcome
        self.watch(self.jobs[number], outcome)
