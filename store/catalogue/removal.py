"""Removing versions: which ones, whether they may be removed, and the bytes that this frees."""

from __future__ import annotations

import time
from dataclasses import dataclass

from store.catalogue.leases import PUBLISHING
from store.errors import InUseError, TaskNotFoundError, VersionNotFoundError
from store.queries.reader import Queries
from store.records.events import LATEST
from store.records.listing import VersionRow
from store.records.refs import Ref, plural


@dataclass(frozen=True)
class Removal:
    """The versions removed (`TASK:NUMBER`), and the bytes that the next collection frees for them."""

    versions: tuple[str, ...]
    freed_nbytes: int


def removable_versions(queries: Queries, task: str, ref: Ref | None) -> list[VersionRow]:
    """Return the version of the ref, or all of the task; raise `InUseError` while an alias or a lease holds one.

    The alias `latest` does not hold the versions of a task that is removed as a whole.
    """
    if ref is None:
        rows = queries.versions(task)
        if not rows:
            raise TaskNotFoundError(f"no task {task!r}: see `store.search()`")
    else:
        row = queries.find(task, version=ref.version, digest=ref.digest, alias=ref.alias)
        if row is None:
            raise VersionNotFoundError(f"no such version of {task}: see `store.versions(task)`")
        rows = [row]
    for row in rows:
        _check_unused(queries, row, ignore=(LATEST,) if ref is None else ())
    return rows


def removal_of(queries: Queries, task: str, rows: list[VersionRow], *, tenant: str | None) -> Removal:
    numbers = [row.version for row in rows]
    return Removal(tuple(f"{task}:{number}" for number in numbers), queries.freed_nbytes(task, numbers, tenant=tenant))


def _check_unused(queries: Queries, row: VersionRow, *, ignore: tuple[str, ...]) -> None:
    """Raise `InUseError` while an alias, other than those to ignore, or a lease holds the version."""
    aliases = [alias for alias in row.aliases if alias not in ignore]
    if aliases:
        only = len(queries.versions(row.task)) == 1
        others = [alias for alias in aliases if alias != LATEST]
        move = f"point {'them' if len(aliases) > 1 else 'it'} at another version first, with "
        move += "`store.set_alias(task, alias, version)`, or remove the task with `all_versions=True`"
        whole = "it is the task's only version, so remove the task with `all_versions=True`"
        whole += f", once nothing needs {plural('alias', others)} {', '.join(others)}" if others else ""
        raise InUseError(
            f"{row.task}:{row.version} has {plural('alias', aliases)} {', '.join(aliases)}: {whole if only else move}"
        )
    for split in queries.splits(row.task):
        if row.version in split.versions:
            raise InUseError(
                f"{row.task}:{row.version} is part of a split of {split.ref} ({split.words}): end it first, with "
                "`end_split(store, task, alias)`"
            )
    holders = [h for h in queries.holders(row.manifest.sha256, now_s=time.time()) if h != PUBLISHING]
    if holders:
        raise InUseError(
            f"{row.task}:{row.version} is in use by {', '.join(holders[:3])}: its lease expires five minutes after the "
            "last request for it, or ends when the server stops"
        )
