"""What was published since a time, and the bytes that only these versions need."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from store.accounting.ownership import Place
from store.accounting.report import Account


@dataclass(frozen=True)
class TaskSince:
    """Versions of a task that are newer; `added_nbytes` are of blobs that nothing older references."""

    task: str
    versions: tuple[int, ...]
    added_nbytes: int


@dataclass(frozen=True)
class Since:
    """The newer versions together; blobs that several of the tasks brought count in `added_nbytes` alone."""

    since: str
    tasks: int
    versions: int
    added_nbytes: int
    by_task: tuple[TaskSince, ...]


def published_since(account: Account, since: str) -> Since:
    """Count the versions that were published at `since` (ISO 8601, UTC, milliseconds) or later and are still there."""
    newer: defaultdict[str, list[Place]] = defaultdict(list)
    for row in account.report.versions:
        if row.published_at >= since:
            newer[row.task].append((row.task, row.version))
    owned = account.ownership
    rows = [
        TaskSince(task, tuple(number for _, number in places), owned.nbytes(owned.unique(places)))
        for task, places in newer.items()
    ]
    every = [place for places in newer.values() for place in places]
    return Since(
        since=since,
        tasks=len(rows),
        versions=len(every),
        added_nbytes=owned.nbytes(owned.unique(every)),
        by_task=tuple(sorted(rows, key=lambda row: (-row.added_nbytes, row.task))),
    )
