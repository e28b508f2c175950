"""Give jobs to the processes of the Ray that this process is connected to, and hear of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RaySystemError, WorkerCrashedError

from serving.cluster.task_plan import DONE, FAILED, LOST, PROGRESS, Event, Payload, TaskPlan, make_work, stream

DEAD = (RayActorError, WorkerCrashedError, RaySystemError)
UNBOUNDED = 1 << 30


def run_task(function: str, settings: Payload, payload: Payload) -> Iterator[tuple[str, Payload]]:
    """Do one job in a process of Ray."""
    yield from stream(make_work(function, settings), payload, threading.Event())


class Worker:
    """An actor that keeps its work from job to job, such as a model in memory."""

    def __init__(self, function: str, settings: Payload) -> None:
        self._work = make_work(function, settings)

    def run(self, payload: Payload) -> Iterator[tuple[str, Payload]]:
        yield from stream(self._work, payload, threading.Event())


class Dispatcher:
    """Jobs that run, each a generator of Ray's, and with actors, those that are idle."""

    def __init__(self, plan: TaskPlan) -> None:
        self._plan = plan
        self._task = ray.remote(num_cpus=plan.threads, max_retries=0)(run_task)
        self._actor: Any = ray.remote(num_cpus=plan.threads)(Worker)
        self._idle: list[Any] = []
        self._of: dict[Any, tuple[int, Any]] = {}  # generator -> job, actor
        self._most = plan.workers or UNBOUNDED
        if plan.actors and plan.workers is None:
            cpus = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
            self._most = max(1, int(cpus) // plan.threads)

    @property
    def running(self) -> bool:
        return bool(self._of)

    @property
    def has_room(self) -> bool:
        return len(self._of) < self._most

    def start(self, job: int, payload: Payload) -> None:
        plan = self._plan
        if not plan.actors:
            self._of[self._task.remote(plan.function, plan.settings, payload)] = (job, None)
            return
        actor = self._idle.pop() if self._idle else self._actor.remote(plan.function, plan.settings)
        self._of[actor.run.remote(payload)] = (job, actor)

    def poll(self) -> Iterator[Event]:
        """Yield what is known by now, without waiting for more."""
        while self._of:
            ready, _ = ray.wait(list(self._of), num_returns=1, timeout=0)
            if not ready:
                return
            yield from self._advance(ready[0])

    def _advance(self, generator: Any) -> Iterator[Event]:
        job, actor = self._of[generator]
        try:
            kind, value = ray.get(next(generator))
        except DEAD as error:
            del self._of[generator]
            yield Event(job, LOST, {"error": "ServerError", "message": _died(error), "notes": []})
            return
        except (RayError, StopIteration) as error:
            del self._of[generator]
            yield Event(job, FAILED, {"error": "ServerError", "message": _died(error), "notes": []})
            if actor is not None:
                ray.kill(actor)
            return
        if kind != PROGRESS:
            del self._of[generator]
            if actor is not None:
                self._idle.append(actor)
        assert kind in (PROGRESS, DONE, FAILED)
        yield Event(job, kind, value)


def _died(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its process ended: {lines[0] if lines else type(error).__name__}"
