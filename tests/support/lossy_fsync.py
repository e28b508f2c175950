"""Processes that leave out a sync, to show that the power-loss tests notice: no other code of ours is replaced."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

import store
from store.errors import OnetrunkError
from support.crash_subjects import Subject, try_subject

STORE = Path(store.__file__).parent


@dataclass(frozen=True)
class Forget:
    """Leave out the syncs of one place, or of all that begin so, for the rest of the process."""

    site: str

    def __call__(self) -> None:
        honest = os.fsync

        def fsync(descriptor: int) -> None:
            if not _site().startswith(self.site):
                honest(descriptor)

        os.fsync = fsync


def sync_sites(subject: Subject) -> set[str]:
    """Return every place in the code from which the subject syncs."""
    sites: set[str] = set()
    honest = os.fsync

    def fsync(descriptor: int) -> None:
        sites.add(_site())
        honest(descriptor)

    with try_subject(subject) as trial:
        os.fsync = fsync
        try:
            subject.run(trial.root, lambda: None)
            # The second time it finds what the first has left.
            with contextlib.suppress(OnetrunkError, FileNotFoundError):
                subject.run(trial.root, lambda: None)
        finally:
            os.fsync = honest
    return sites


class _Careless(sqlite3.Connection):
    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:  # type: ignore[override]
        return super().execute(sql.replace("synchronous=FULL", "synchronous=OFF"), *parameters)


def trust_the_cache() -> None:
    """Let SQLite sync nothing, for the rest of the process."""
    honest = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: honest(*arguments, **{**options, "factory": _Careless})


def _site() -> str:
    """Name the line that syncs, and where that is in `sync_folder`, the line that called it."""
    frame, lines = sys._getframe(2), []
    while frame is not None and all(line.endswith(" sync_folder") for line in lines):
        path = Path(frame.f_code.co_filename)
        if STORE in path.parents:
            lines.append(f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(lines)
