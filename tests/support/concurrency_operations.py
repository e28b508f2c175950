"""The operations of one of many processes on the same store, and the answers; `concurrency_run.py` runs them."""

from __future__ import annotations

import itertools
import random
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from store.errors import OnetrunkError
from store.maintenance.garbage import collect_garbage
from store.records.blob import Blob
from store.registry.store import Store

TASKS = ("acme/roses", "acme/tulips", "poppies")
ALIASES = ("canary", "production")
SHARED = ("shared-0", "shared-1")  # contents that every process publishes


@dataclass(frozen=True)
class Workload:
    """How many operations, on which store; `folder` is a task's folder, and every content is a variant of it."""

    root: str
    catalogue: str | None
    folder: str
    backbone: str
    logs: str
    processes: int
    each: int
    seconds: float = 600.0
    """After this time no process begins another operation."""
    seed: int = 0


@dataclass(frozen=True)
class OperationResult:
    """One operation: its request, its time (seconds since the epoch), and its answer."""

    worker: str
    kind: str
    started_s: float = 0.0
    ended_s: float = 0.0
    task: str = ""
    version: int | None = None
    alias: str | None = None
    moved: tuple[str, ...] = ()
    """Aliases that point at the version when this is acknowledged."""
    digest: str | None = None
    content: str | None = None
    versions: tuple[int, ...] = ()
    error: str | None = None
    message: str = ""


class Worker:
    def __init__(self, workload: Workload, name: str) -> None:
        self.name = name
        self.workload = workload
        self.random = random.Random(f"{workload.seed} {name}")
        self.scratch = Path(workload.logs) / f"{name}.scratch"
        self.folder = Path(shutil.copytree(workload.folder, self.scratch / "variant"))
        self.store = Store.open(workload.root, catalogue=workload.catalogue, actor=name)
        self.latest = dict.fromkeys(TASKS, 1)
        """The greatest number that this process has seen of each task."""
        self.removed: list[tuple[str, int]] = []
        """What it has removed itself; another process may have restored or collected it."""
        self._count = itertools.count()

    def new_name(self) -> str:
        return f"{self.name}-{next(self._count)}"

    def task(self) -> str:
        return self.random.choice(TASKS)

    def version(self, task: str) -> int:
        return self.random.randint(1, self.latest[task])

    def saw(self, task: str, version: int) -> None:
        self.latest[task] = max(self.latest[task], version)

    def publish(self, task: str, content: str, *aliases: str) -> OperationResult:
        version = self.store.publish(
            task, vary(self.folder, content), backbone=self.workload.backbone, depth=2, aliases=aliases
        )
        self.saw(task, version.number)
        return self.result(
            "publish", task, version.number, moved=("latest", *aliases), digest=version.digest, content=content
        )

    def result(self, kind: str, task: str, version: int | None = None, **details: object) -> OperationResult:
        return replace(OperationResult(self.name, kind, task=task, version=version), **details)


def vary(folder: Path, content: str) -> Path:
    """Give the task's folder labels, an adapter and a head that no other content has."""
    (folder / "classes.txt").write_text(f"{content}\ntulip\npoppy\n")
    for name in ("adapter_model.safetensors", "head.safetensors"):
        data = bytearray((folder / name).read_bytes())
        data[-4:-1] = Blob.of(content.encode()).sha256[:3].encode()  # the last number's mantissa: it stays finite
        (folder / name).write_bytes(data)
    return folder


def publish_new(worker: Worker) -> OperationResult:
    aliases = (worker.random.choice(ALIASES),) if worker.random.random() < 0.3 else ()
    return worker.publish(worker.task(), worker.new_name(), *aliases)


def publish_same(worker: Worker) -> OperationResult:
    return worker.publish(worker.task(), worker.random.choice(SHARED))


def set_alias(worker: Worker) -> OperationResult:
    task, alias = worker.task(), worker.random.choice(ALIASES)
    version = worker.version(task)
    done = worker.result("set_alias", task, version, alias=alias, moved=(alias,))
    return attempt(done, lambda: worker.store.set_alias(task, alias, version))


def remove_alias(worker: Worker) -> OperationResult:
    task, alias = worker.task(), worker.random.choice(ALIASES)
    done = worker.result("remove_alias", task, alias=alias)
    return attempt(done, lambda: worker.store.remove_alias(task, alias))


def rollback(worker: Worker) -> OperationResult:
    task, alias = worker.task(), worker.random.choice(("latest", *ALIASES))
    done = worker.result("rollback", task, alias=alias)
    try:
        version = worker.store.rollback(task, alias)
    except OnetrunkError as error:
        return failed(done, error)
    return replace(done, version=version.number, digest=version.digest, moved=(alias,))


def tag(worker: Worker) -> OperationResult:
    task = worker.task()
    version = worker.version(task) if worker.random.random() < 0.5 else None
    key, value = worker.random.choice(("owner", "stage")), worker.new_name()
    done = worker.result("tag", task, version, content=value)
    return attempt(done, lambda: worker.store.set_tag(task, key, value, version=version))


def remove(worker: Worker) -> OperationResult:
    task = worker.task()
    version = worker.version(task)
    done = attempt(worker.result("remove", task, version), lambda: worker.store.remove(f"{task}:{version}"))
    worker.removed += [(task, version)] if done.error is None else []
    return done


def restore(worker: Worker) -> OperationResult:
    task, version = worker.removed.pop() if worker.removed else (worker.task(), 1)
    done = worker.result("restore", task, version)
    return attempt(done, lambda: worker.store.restore(task, version))


def resolve(worker: Worker) -> OperationResult:
    task, alias = worker.task(), worker.random.choice(("latest", *ALIASES))
    done = worker.result("resolve", task, alias=alias)
    try:
        version = worker.store.resolve(f"{task}@{alias}")
    except OnetrunkError as error:
        return failed(done, error)
    worker.saw(task, version.number)
    return replace(done, version=version.number, digest=version.digest)


def page(worker: Worker) -> OperationResult:
    listed: list[tuple[str, int]] = []
    after: str | None = None
    while not listed or after is not None:
        page = worker.store.search(after=after, limit=2)
        listed += [(row.task, row.version) for row in page.rows]
        after = page.next
        assert page.rows, "a page of a store that never empties"
    assert [task for task, _ in listed] == sorted({task for task, _ in listed}), listed
    return worker.result("page", "", versions=tuple(version for _, version in listed))


def history(worker: Worker) -> OperationResult:
    task = worker.task()
    events = worker.store.history(task)
    assert all(a.number < b.number and a.at <= b.at for a, b in itertools.pairwise(events)), "history is not a line"
    published = [event.version or 0 for event in events if event.action == "publish"]
    return worker.result("history", task, versions=tuple(published))


def export(worker: Worker) -> OperationResult:
    task = worker.task()
    version = worker.version(task)
    done = worker.result("export", task, version)
    folder = worker.scratch / worker.new_name()
    try:
        worker.store.export(f"{task}:{version}", folder)
        return replace(done, content=(folder / "classes.txt").read_text().split("\n")[0])
    except OnetrunkError as error:
        return failed(done, error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def collect(worker: Worker) -> OperationResult:
    collected = collect_garbage(worker.store, grace_s=0)
    return worker.result("collect", "", content=f"{len(collected.purged)} versions, {len(collected.freed)} blobs")


OPERATIONS: Mapping[Callable[[Worker], OperationResult], int] = {
    publish_new: 22,
    publish_same: 8,
    set_alias: 14,
    remove_alias: 2,
    rollback: 5,
    tag: 8,
    remove: 8,
    restore: 4,
    resolve: 12,
    page: 5,
    history: 4,
    export: 4,
}
"""What a process does, and how often in about a hundred operations."""


def attempt(done: OperationResult, call: Callable[[], object]) -> OperationResult:
    try:
        call()
    except OnetrunkError as error:
        return failed(done, error)
    return done


def failed(request: OperationResult, error: BaseException) -> OperationResult:
    return replace(request, error=type(error).__name__, message=str(error)[:500], moved=())


def timed(worker: Worker, operation: Callable[[Worker], OperationResult]) -> OperationResult:
    started = time.time()
    try:
        outcome = operation(worker)
    except Exception as error:  # the test examines every error, whatever it is
        message = "".join(traceback.format_exception(error))[-1500:]
        outcome = replace(failed(OperationResult(worker.name, operation.__name__), error), message=message)
    return replace(outcome, started_s=started, ended_s=time.time())
