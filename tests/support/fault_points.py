"""Every point at which a verb can be killed or its system call can fail: counted once, then taken one by one."""

from __future__ import annotations

import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

from support.disk_model import LINE
from support.invariants import copy_store
from support.store_verbs import Acknowledge
from support.strace import MUTATING, calls, run_traced

T = TypeVar("T")

WORKERS = 2
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
FAULTS = {
    "killed": "signal=SIGKILL:when={nth}",
    "EIO once": "error=EIO:when={nth}",
    "EIO from then on": "error=EIO:when={nth}+",
    "ENOSPC once": "error=ENOSPC:when={nth}",
    "ENOSPC from then on": "error=ENOSPC:when={nth}+",
}


class Subject(Protocol):
    """What gets broken in a copy of the folder `template`, and who judges what is left."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> Path: ...

    def run(self, root: Path, acknowledge: Acknowledge) -> None: ...

    def problems(self, root: Path, *, acknowledged: bool) -> Iterator[str]: ...


@dataclass(frozen=True)
class Point:
    call: str
    nth: int
    fault: str

    def __str__(self) -> str:
        return f"{self.fault} at {self.call} {self.nth}"


@dataclass(frozen=True)
class Result:
    """How the verb ended ("returned" where it did not need the call that failed), and what was wrong then."""

    point: Point
    how: str
    problems: tuple[str, ...]


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a new folder, in memory where there is such: a killed process loses nothing that it has written."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="onetrunk-", dir=memory if os.access(memory, os.W_OK) else None) as place:
        yield Path(place)


def points(subject: Subject) -> list[Point]:
    """Return every point of the verb: each fault at each of its calls that can change the store."""
    return [Point(call, nth, fault) for call, nth in changing_calls(subject) for fault in FAULTS]


def changing_calls(subject: Subject) -> list[tuple[str, int]]:
    """Return the calls that can change something, each with its number among the calls of its name."""
    with scratch() as place:
        root, trace = place / "store", place / "trace"
        copy_store(subject.template, root)
        outcome = run_traced(
            lambda acknowledge: subject.run(root, acknowledge), "-o", str(trace), "-e", f"trace={calls(MUTATING)}"
        )
        assert outcome.how == "returned", outcome
        return list(_changing(trace.read_text().splitlines()))


def try_point(subject: Subject, point: Point) -> Result:
    """Break the verb there, in a copy of its store, and examine what is left."""
    with scratch() as place:
        root = place / "store"
        copy_store(subject.template, root)
        fault = FAULTS[point.fault].format(nth=point.nth)
        outcome = run_traced(
            lambda acknowledge: subject.run(root, acknowledge),
            *("-o", os.devnull, "-e", f"trace={point.call}", "-e", f"inject={point.call}:{fault}"),
        )
        problems = [f"it ends with {outcome.note}"] if outcome.how == "crashed" else []
        problems += subject.problems(root, acknowledged=outcome.acknowledged)
        return Result(point, outcome.how, tuple(problems))


def workers() -> ProcessPoolExecutor:
    """Return processes that have the store imported and nothing that is slow to fork."""
    return ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))


def spread(items: list[T], share: int) -> list[T]:
    """Choose so many of them, evenly and always the same ones, in their order."""
    order = sorted(range(len(items)), key=lambda index: (index + 1) * GOLDEN_RATIO % 1)
    return [items[index] for index in sorted(order[:share])]


def sample(found: list[Point], fraction: float) -> list[Point]:
    """Choose about this fraction, with every fault of every call at least once."""
    groups: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in found:
        groups[point.call, point.fault].append(point)
    return [point for group in groups.values() for point in spread(group, max(1, round(fraction * len(group))))]


def _changing(trace: Iterable[str]) -> Iterator[tuple[str, int]]:
    made: defaultdict[str, int] = defaultdict(int)
    for line in trace:
        match = LINE.fullmatch(line)
        if match is None:
            continue
        call, arguments = match[2], match[3]
        made[call] += 1
        if call not in ("open", "openat") or "O_CREAT" in arguments or "O_TRUNC" in arguments:
            yield call, made[call]
