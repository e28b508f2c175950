"""What is to go, whether it may, and what that would free."""

from __future__ import annotations

from dataclasses import dataclass

from store.catalogue.aliases import check_unused
from store.errors import TaskNotFoundError, VersionNotFoundError
from store.queries.reader import Queries
from store.records.events import LATEST
from store.records.listing import VersionRow
from store.records.refs import Ref


@dataclass(frozen=True)
class Removal:
    """What was removed (`TASK:NUMBER`), and the bytes that the collector will free for it."""

    versions: tuple[str, ...]
    freed_nbytes: int


def leaving(reader: Queries, task: str, wanted: Ref | None) -> list[VersionRow]:
    """Return the version named, or all of the task; raise `InUseError` while an alias or a lease holds one of them.

    That every task has its `latest` does not hold a task that goes as a whole.
    """
    if wanted is None:
        rows = reader.versions(task)
        if not rows:
            raise TaskNotFoundError(f"no task {task!r}: see `onetrunk ls`")
    else:
        row = reader.find(task, version=wanted.version, digest=wanted.digest, alias=wanted.alias)
        if row is None:
            raise VersionNotFoundError(f"no such version of {task}: see `onetrunk ls {task}`")
        rows = [row]
    for row in rows:
        check_unused(reader, row, but=(LATEST,) if wanted is None else ())
    return rows


def removal_of(reader: Queries, task: str, rows: list[VersionRow], *, tenant: str | None) -> Removal:
    numbers = [row.version for row in rows]
    return Removal(tuple(f"{task}:{number}" for number in numbers), reader.freed_nbytes(task, numbers, tenant=tenant))
