"""Tasks that nobody asked for lately: what removing them would free, and how far back the servers' counts go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from store.accounting.report import Account, StorageReport
from store.accounting.usage import Usage
from store.errors import InvalidSettingError

MOST_DAYS = 36_500.0


@dataclass(frozen=True)
class UnaskedTask:
    """A task without a request since `quiet_since`: its last one, its last publish, or where what is known begins."""

    task: str
    last_asked: str | None
    last_published: str
    quiet_since: str
    stored_nbytes: int
    freed_if_deleted_nbytes: int


@dataclass(frozen=True)
class Unasked:
    """The tasks that nobody asked for in so many days before `until`, those that would free most first.

    Requests are known from `since` on. Where that is less than `days`, `covers` is False: a task may have been asked
    before. Of `unknown` tasks nothing can be said, because the servers' counts left some out. `freed_nbytes` is what a
    collection would free more if all of these tasks were removed.
    """

    days: float
    source: str
    since: str
    until: str
    covers: bool
    unknown: int
    freed_nbytes: int
    tasks: tuple[UnaskedTask, ...]


def unasked(account: Account, usage: Usage, *, days: float) -> Unasked:
    """Say which tasks nobody asked for; what was published meanwhile could not have been asked for before."""
    if not 0 < days <= MOST_DAYS:
        raise InvalidSettingError(f"days {days!r:.40} are not above 0 and at most {MOST_DAYS:,.0f}: give such as 90")
    report, cutoff = account.report, _before(usage.until, days)
    tasks = sorted(_quiet(report, usage, cutoff), key=lambda row: (-row.freed_if_deleted_nbytes, row.task))
    known = sum(task.task in usage.tasks for task in report.tasks)
    names = {task.task for task in tasks}
    return Unasked(
        days=days,
        source=usage.source,
        since=usage.since,
        until=usage.until,
        covers=usage.since <= cutoff,
        unknown=0 if usage.is_complete else len(report.tasks) - known,
        freed_nbytes=account.ownership.freed([place for place in account.ownership.blobs_of if place[0] in names]),
        tasks=tuple(tasks),
    )


def _quiet(report: StorageReport, usage: Usage, cutoff: str) -> Iterator[UnaskedTask]:
    published: dict[str, str] = {}
    for row in report.versions:
        published[row.task] = max(published.get(row.task, ""), row.published_at)
    for task in report.tasks:
        use = usage.tasks.get(task.task)
        if use is None and not usage.is_complete:
            continue
        asked = use.last_at if use else None
        last = max(asked or "", published[task.task])
        if last > max(cutoff, usage.since if asked is None else ""):
            continue
        yield UnaskedTask(
            task=task.task,
            last_asked=asked,
            last_published=published[task.task],
            quiet_since=max(last, usage.since) if asked is None else last,
            stored_nbytes=task.stored_nbytes,
            freed_if_deleted_nbytes=task.freed_if_deleted_nbytes,
        )


def _before(at: str, days: float) -> str:
    try:
        return (datetime.fromisoformat(at) - timedelta(days=days)).isoformat(timespec="milliseconds")
    except OverflowError:
        return "0001-01-01T00:00:00.000+00:00"
