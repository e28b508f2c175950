"""What the catalogue answers with, and the words in which it is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from store.records.blob import Blob
from store.records.events import ApiKey, Event, parse_details
from store.records.listing import VersionListing, VersionRow

UNREADABLE = "unreadable"
"""The method of a version of which nothing but its digest is known."""
EVENT = "number, at, action, subject, version, alias, digest, previous, actor, details, batch"
VERSION = "v.task, v.version, v.digest, v.nbytes, v.published_at, v.removed_at, v.backbone"
LISTING_COLUMNS = f"{VERSION}, v.depth, v.blocks, v.classes, v.method, v.total_nbytes, b.name"
PROTECTED: Mapping[Any, Any] = {0: False, 1: True}  # another value stays what it is, for the audit to find

Row = tuple[Any, ...]
Select = Callable[..., Iterable[Row]]
"""Run one statement with named parameters and give its rows."""


def event_of(row: Row) -> Event:
    number, at, action, subject, version, alias, digest, previous, actor, details, batch = row
    return Event(number, at, action, subject, version, alias, digest, previous, actor, parse_details(details), batch)


def version_row(row: Row, aliases: tuple[str, ...]) -> VersionRow:
    task, version, digest, nbytes, published_at, removed_at, backbone = row
    return VersionRow(task, version, Blob(digest, nbytes), published_at, removed_at, backbone, aliases)


def listed_of(select: Select, rows: list[Row]) -> tuple[VersionListing, ...]:
    tasks = sorted({row[0] for row in rows})
    names, tags = names_by_version(select, tasks), tags_by_version(select, tasks)
    return tuple(
        VersionListing(
            task=task,
            version=version,
            aliases=tuple(names[task, version]),
            backbone=backbone,
            depth=depth,
            blocks=blocks,
            classes=classes,
            method=method,
            nbytes=nbytes,
            digest=digest,
            published_at=published_at,
            removed_at=removed_at,
            tags={**tags[task, 0], **tags[task, version]},
        )
        for (
            task,
            version,
            digest,
            _,
            published_at,
            removed_at,
            _,
            depth,
            blocks,
            classes,
            method,
            nbytes,
            backbone,
        ) in rows
    )


def names_by_version(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], list[str]]:
    chosen, parameters = among(tasks)
    names: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for task, alias, version in select(
        f"SELECT task, alias, version FROM aliases {chosen} ORDER BY alias", **parameters
    ):
        names[task, version].append(alias)
    return names


def tags_by_version(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], dict[str, str]]:
    chosen, parameters = among(tasks)
    tags: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for task, version, key, value in select(
        f"SELECT task, version, key, value FROM tags {chosen} ORDER BY key", **parameters
    ):
        tags[task, version][key] = value
    return tags


def among(tasks: list[str] | None) -> tuple[str, dict[str, str]]:
    if tasks is None:
        return "", {}
    parameters = {f"task{number}": task for number, task in enumerate(tasks)}
    return f"WHERE task IN ({', '.join(f':{name}' for name in parameters) or 'NULL'})", parameters


def within_tenant(tenant: str | None, task: str) -> str:
    """Narrow to the tasks of a tenant, found by its index: the time must not depend on what others have."""
    return "" if tenant is None else f"AND {task} IN (SELECT task FROM tasks WHERE tenant = :tenant)"


def tag_value(version: str, number: int) -> str:
    return f"(SELECT value FROM tags WHERE task = v.task AND version = {version} AND key = :key{number})"


def key_of(row: Row) -> ApiKey:
    identifier, tenant, scopes, sha256, created_at, revoked_at = row
    return ApiKey(identifier, tenant, tuple(scopes.split()), sha256, created_at, revoked_at)


def scalar(rows: Iterable[Row]) -> Any:
    return next((row[0] for row in rows), None)


def given(**parameters: object) -> dict[str, object]:
    """Leave out what is None: a statement names only the parameters that it needs."""
    return {name: value for name, value in parameters.items() if value is not None}


def escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


class QueryBase:
    """Ask questions within a snapshot that `connect` opens."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Select]]) -> None:
        self.connect = connect

    @classmethod
    def within(cls, select: Select) -> Self:
        """Read within a transaction that is open already."""

        @contextmanager
        def connect() -> Iterator[Select]:
            yield select

        return cls(connect)
