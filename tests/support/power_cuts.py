"""A subject recorded call by call, and what a power cut at any moment leaves of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from support.crash_subjects import Patch, Subject, Trial, no_patch, spread, try_subject
from support.disk_model import CALLS, Disk, Tree
from support.fault_points import changing_calls
from support.power_loss import Survivor, materialise, survivors
from support.strace import TracedExit, calls

DRAWS = 2
MOST_NBYTES = 1 << 26  # of one call; strace writes all of them down


@dataclass(frozen=True)
class Accident:
    """What goes wrong before the power does; a point is a system call and its number among the calls of its name.

    `patch` changes the process, `killed_at` is where an earlier process of the subject died, `fails_at` a failing call.
    """

    patch: Patch = no_patch
    killed_at: tuple[str, int] | None = None
    fails_at: tuple[str, int] | None = None


@dataclass(frozen=True)
class Loss:
    """What a power cut after so many operations left, of which kind, and what is wrong with it."""

    name: str
    end: int
    acknowledged: bool
    kind: str
    problem: str

    def __str__(self) -> str:
        when = f"operation {self.end}" + (", acknowledged" if self.acknowledged else "")
        return f"{self.name}, power lost after {when}, where {self.kind} survives: {self.problem}"


@dataclass(frozen=True)
class PowerCuts:
    """How many different states power cuts may leave, how many were examined, and what was wrong with those."""

    states: int
    examined: int
    losses: tuple[Loss, ...]


def record(trial: Trial, accident: Accident) -> Disk:
    """Run the subject of a fresh trial, and write down what it does to its disk."""
    disk = Disk(trial.disk)
    if accident.killed_at is not None:
        end = _run(trial, disk, no_patch, *_inject(accident.killed_at, "signal=SIGKILL"))
        assert end.how == "killed", end
    fails = () if accident.fails_at is None else _inject(accident.fails_at, "error=EIO")
    end = _run(trial, disk, accident.patch, *fails)
    assert end.how == "returned" or (accident != Accident() and end.how == "refused"), end
    assert disk.tree(disk.ops) == _read(trial.disk), "the model has lost sight of what is on the disk"
    return disk


def check(subject: Subject, *, at_most: int | None) -> PowerCuts:
    """Cut the power at every operation of the subject, and examine so many of the states that this may leave."""
    with try_subject(subject) as trial:
        disk = record(trial, Accident())
        states = list(_states(subject, disk, draws=DRAWS))
        chosen = spread(states, at_most or len(states))
        losses = [_examine(trial, disk, *state) for state in chosen]
    return PowerCuts(len(states), len(chosen), tuple(loss for loss in losses if loss is not None))


def find_loss(subject: Subject, accident: Accident) -> Loss | None:
    """Return a loss that the accident leads to where the power is cut as well, None if it leads to none.

    Unless the process is only patched, what counts is the moment of its acknowledgement.
    """
    with try_subject(subject) as trial:
        disk = record(trial, accident)
        states = list(_states(subject, disk, draws=0))
        if accident.killed_at or accident.fails_at:
            states = [state for state in states if state[0] == disk.acknowledged]
        late_first = sorted(states, key=lambda state: -state[0])  # what was acknowledged is lost most easily
        losses = (_examine(trial, disk, *state) for state in late_first)
        return next((loss for loss in losses if loss is not None), None)


def find_any_loss(subjects: Sequence[Subject], patch: Patch) -> Loss | None:
    """Look for a loss that the patch leads to in plain runs, and then in runs that follow a killed one."""
    plain = (find_loss(subject, Accident(patch)) for subject in subjects)
    again = (find_loss(s, Accident(patch, killed_at=point)) for s in subjects for point in changing_calls(s))
    return next((loss for loss in chain(plain, again) if loss is not None), None)


def _states(subject: Subject, disk: Disk, *, draws: int) -> Iterator[tuple[int, Survivor]]:
    """Yield each different state that a power cut may leave, with the number of operations until then."""
    known: set[bytes] = set()
    for end in range(len(disk.ops) + 1):
        for survivor in survivors(disk.ops[:end], seed=subject.name, draws=draws):
            digest = _digest(disk.tree(survivor.ops), acknowledged=_is_acknowledged(disk, end))
            if digest not in known:
                known.add(digest)
                yield end, survivor


def _examine(trial: Trial, disk: Disk, end: int, survivor: Survivor) -> Loss | None:
    acknowledged, cut = _is_acknowledged(disk, end), Trial(trial.subject, trial.folder / "cut")
    cut.folder.mkdir()
    materialise(disk.tree(survivor.ops), cut.disk)
    try:
        problem = next(cut.problems(acknowledged=acknowledged), None)
    finally:
        shutil.rmtree(cut.folder)
    return None if problem is None else Loss(trial.subject.name, end, acknowledged, survivor.kind, problem)


def _is_acknowledged(disk: Disk, end: int) -> bool:
    return disk.acknowledged is not None and end >= disk.acknowledged


def _inject(point: tuple[str, int], fault: str) -> tuple[str, str]:
    call, nth = point
    return "-e", f"inject={call}:{fault}:when={nth}"


def _run(trial: Trial, disk: Disk, patch: Patch, *options: str) -> TracedExit:
    whole = ("-xx", "-s", str(MOST_NBYTES), "-e", f"trace={calls(CALLS)}")
    end = trial.run(*whole, *options, trace=trial.trace, patch=patch)
    disk.replay(trial.trace)
    return end


def _read(folder: Path) -> Tree:
    paths = (path for path in folder.rglob("*") if not path.name.endswith("-shm"))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths}


def _digest(tree: Tree, *, acknowledged: bool) -> bytes:
    whole = hashlib.sha256(bytes([acknowledged]))
    for path, data in sorted(tree.items()):
        whole.update(f"{path}\0{None if data is None else len(data)}\0".encode() + (data or b""))
    return whole.digest()
