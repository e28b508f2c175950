"""What a crash or a power cut interrupts: a subject, and a copy of its store in which it runs and is examined."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

from support.strace import TracedExit, run_traced

T = TypeVar("T")
WORKERS = 2
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2

Acknowledge = Callable[[], object]
"""What a subject calls as soon as its caller may rely on what it did."""
Patch = Callable[[], object]
"""What a traced process does to itself before the subject runs in it."""


class Subject(Protocol):
    """One change of a store: `template` is the store's folder before it, `problems` judges what is left of a copy."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> Path: ...

    def run(self, root: Path, acknowledge: Acknowledge) -> None: ...

    def problems(self, root: Path, *, acknowledged: bool) -> Iterator[str]: ...


def no_patch() -> None: ...


@dataclass(frozen=True)
class Trial:
    """A copy of a subject's store in a folder of its own; `disk` has the copy alone, all else lies beside it."""

    subject: Subject
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def root(self) -> Path:
        return self.disk / "store"

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    def run(self, *options: str, trace: Path | None = None, patch: Patch = no_patch) -> TracedExit:
        """Run the subject on the copy in a process under strace with these options; its calls go to `trace`."""

        def action(acknowledge: Acknowledge) -> None:
            patch()
            self.subject.run(self.root, acknowledge)

        return run_traced(action, "-o", os.devnull if trace is None else str(trace), *options)

    def problems(self, *, acknowledged: bool) -> Iterator[str]:
        return self.subject.problems(self.root, acknowledged=acknowledged)


@contextmanager
def try_subject(subject: Subject) -> Iterator[Trial]:
    """Copy the subject's store to a new folder, in memory where that can be: a killed process loses nothing written."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="onetrunk-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        trial = Trial(subject, Path(folder))
        trial.disk.mkdir()
        copy_store(subject.template, trial.root)
        yield trial


def copy_store(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():  # what is about to be created does not
        shutil.copytree(source, target)


def workers() -> ProcessPoolExecutor:
    """Return processes that have the store imported and nothing that is slow to fork."""
    return ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))


def spread(items: Sequence[T], share: int) -> list[T]:
    """Choose so many of them, evenly and always the same ones, in their order."""
    order = sorted(range(len(items)), key=lambda index: (index + 1) * GOLDEN_RATIO % 1)
    return [items[index] for index in sorted(order[:share])]
