"""Every point at which a subject can be killed or its system call can fail: counted once, then tried one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from support.crash_subjects import Subject, spread, try_subject
from support.disk_model import LINE
from support.strace import MUTATING, calls

FAULTS = {
    "killed": "signal=SIGKILL:when={nth}",
    "EIO once": "error=EIO:when={nth}",
    "EIO from then on": "error=EIO:when={nth}+",
    "ENOSPC once": "error=ENOSPC:when={nth}",
    "ENOSPC from then on": "error=ENOSPC:when={nth}+",
}


@dataclass(frozen=True)
class Point:
    call: str
    nth: int
    fault: str

    def __str__(self) -> str:
        return f"{self.fault} at {self.call} {self.nth}"


@dataclass(frozen=True)
class PointResult:
    """How the subject ended ("returned" where it did not need the call that failed), and what was wrong then."""

    point: Point
    how: str
    problems: tuple[str, ...]


def points(subject: Subject) -> list[Point]:
    """Return every point of the subject: each fault at each of its calls that can change the store."""
    return [Point(call, nth, fault) for call, nth in changing_calls(subject) for fault in FAULTS]


def changing_calls(subject: Subject) -> list[tuple[str, int]]:
    """Return the calls that can change something, each with its number among the calls of its name."""
    with try_subject(subject) as trial:
        end = trial.run("-e", f"trace={calls(MUTATING)}", trace=trial.trace)
        assert end.how == "returned", end
        return list(_changing(trial.trace.read_text().splitlines()))


def try_point(subject: Subject, point: Point) -> PointResult:
    """Break the subject there, in a copy of its store, and examine what is left."""
    with try_subject(subject) as trial:
        fault = FAULTS[point.fault].format(nth=point.nth)
        end = trial.run("-e", f"trace={point.call}", "-e", f"inject={point.call}:{fault}")
        crash = [f"it ends with {end.note}"] if end.how == "crashed" else []
        return PointResult(point, end.how, (*crash, *trial.problems(acknowledged=end.acknowledged)))


def try_points(subject: Subject, chosen: Sequence[Point], pool: Executor) -> list[PointResult]:
    return list(pool.map(partial(try_point, subject), chosen, chunksize=4))


def sample(points: Iterable[Point], fraction: float) -> list[Point]:
    """Choose about this fraction, with every fault of every call at least once."""
    groups: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.call, point.fault].append(point)
    return [point for group in groups.values() for point in spread(group, max(1, round(fraction * len(group))))]


def _changing(trace: Iterable[str]) -> Iterator[tuple[str, int]]:
    counts: defaultdict[str, int] = defaultdict(int)
    for line in trace:
        match = LINE.fullmatch(line)
        if match is None:
            continue
        call, arguments = match[2], match[3]
        counts[call] += 1
        if call not in ("open", "openat") or "O_CREAT" in arguments or "O_TRUNC" in arguments:
            yield call, counts[call]
