"""What keeping fewer versions would free: a dry run, which removes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from store.accounting.report import Account
from store.accounting.rows import VersionReport
from store.errors import InvalidSettingError
from store.records.bounds import check_number

MAX_KEPT = 1_000_000


@dataclass(frozen=True)
class RetainedTask:
    """A task of which versions would go; an alias or a lease keeps `held` versions that the rule alone would not."""

    task: str
    versions: int
    removed: tuple[int, ...]
    held: int


@dataclass(frozen=True)
class Retention:
    """A rule, the versions that it would remove, and the bytes that the next collection would then free more.

    A version goes that is not among the last `keep_last` of its task and was published before `published_before`,
    where each is given.
    """

    keep_last: int | None
    published_before: str | None
    versions: int
    held: int
    freed_nbytes: int
    tasks: tuple[RetainedTask, ...]


def retention(account: Account, *, keep_last: int | None = None, published_before: str | None = None) -> Retention:
    """Say what a rule would free; `published_before` is ISO 8601 in UTC with milliseconds, as the history has it."""
    if keep_last is None and published_before is None:
        raise InvalidSettingError("retention without a rule keeps everything: give `keep_last=` or `published_before=`")
    if keep_last is not None:
        check_number("keep_last", keep_last, most=MAX_KEPT)
    tasks = tuple(_tasks(account.report.versions, keep_last, published_before))
    removed = [(task.task, number) for task in tasks for number in task.removed]
    return Retention(
        keep_last=keep_last,
        published_before=published_before,
        versions=len(removed),
        held=sum(task.held for task in tasks),
        freed_nbytes=account.ownership.freed(removed),
        tasks=tasks,
    )


def _tasks(rows: Sequence[VersionReport], keep_last: int | None, before: str | None) -> Iterator[RetainedTask]:
    by_task: defaultdict[str, list[VersionReport]] = defaultdict(list)
    for row in rows:
        by_task[row.task].append(row)
    for task, versions in by_task.items():
        old = versions if keep_last is None else versions[: max(0, len(versions) - keep_last)]
        due = [row for row in old if before is None or row.published_at < before]
        removed = tuple(row.version for row in due if not row.aliases and not row.leased)
        if due:
            yield RetainedTask(task, len(versions), removed, len(due) - len(removed))
