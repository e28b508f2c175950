"""What a pool of processes is to run, passed as JSON to the process that runs Ray for it."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import Any, cast

from store.errors import OnetrunkError

Payload = Mapping[str, object]
Report = Callable[[Payload], None]
Work = Callable[[Payload, Report], Payload]
"""What a job does: from its payload to its result, both as JSON has them; it may report on the way."""

PROGRESS, DONE, FAILED, LOST = "progress", "done", "failed", "lost"


@dataclass(frozen=True)
class TaskPlan:
    """`function` names, as MODULE:NAME, what makes the work out of the settings.

    With `actors`, it is made once in each process and kept there, else for each job. `workers` bounds the jobs that
    run at a time; None leaves that to the cluster. A job has `threads` cores.
    """

    function: str
    settings: Payload
    workers: int | None
    threads: int = 1
    actors: bool = False
    ray_address: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TaskPlan:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Event:
    """What became known of a job: `kind` is progress, done or failed; of a failure, the value has error and notes."""

    job: int
    kind: str
    value: Mapping[str, Any]


def make_work(function: str, settings: Payload) -> Work:
    """Import the function and call it with the settings."""
    module, _, name = function.partition(":")
    return cast(Work, getattr(importlib.import_module(module), name)(settings))


def stream(work: Work, payload: Payload, stopped: threading.Event) -> Iterator[tuple[str, Payload]]:
    """Run the job on a thread, and yield what it reports as it does, then its result or its error.

    Once it is stopped, the job ends where it would report next.
    """
    events: SimpleQueue[tuple[str, Payload]] = SimpleQueue()

    def report(value: Payload) -> None:
        if stopped.is_set():
            raise InterruptedError("the run was stopped")
        events.put((PROGRESS, value))

    def run() -> None:
        try:
            events.put((DONE, work(payload, report)))
        except BaseException as error:  # whatever it is, the other jobs go on, and the caller must be told
            events.put((FAILED, describe(error)))

    threading.Thread(target=run, name="job", daemon=True).start()
    while (event := events.get())[0] == PROGRESS:
        yield event
    yield event


def describe(error: BaseException) -> Payload:
    """Return an error as JSON has it."""
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, OnetrunkError | OSError | MemoryError)
    message = text if known else f"{type(error).__name__}: {text}"
    return {"error": type(error).__name__, "message": message, "notes": list(getattr(error, "__notes__", ()))}
