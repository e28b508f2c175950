"""SQL that the queries share: columns, clauses, and the records that rows become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from store.errors import ClosedStoreError, InvalidSettingError
from store.records.blob import Blob
from store.records.events import ApiKey, Event, parse_details
from store.records.listing import VersionListing, VersionRow

UNREADABLE = "unreadable"
"""The method of a version whose manifest a rebuild could not read: only its digest is known."""
EVENT = "number, at, action, subject, version, alias, digest, previous, actor, details, batch"
VERSION = "v.task, v.version, v.digest, v.nbytes, v.published_at, v.removed_at, v.backbone"
LISTING: Mapping[str, str] = {
    "task": "v.task",
    "version": "v.version",
    "digest": "v.digest",
    "published_at": "v.published_at",
    "removed_at": "v.removed_at",
    "depth": "v.depth",
    "blocks": "v.blocks",
    "classes": "v.classes",
    "method": "v.method",
    "nbytes": "v.total_nbytes",
    "backbone": "b.name",
}
"""Fields of a `VersionListing` -> their columns."""
LISTING_COLUMNS = ", ".join(LISTING.values())
PROTECTED: Mapping[Any, Any] = {0: False, 1: True}  # another value stays as it is, and verify reports it

Row = tuple[Any, ...]
Select = Callable[..., Iterable[Row]]
"""Run one statement with named parameters and give its rows."""


LONGEST = 1000  # characters: what the checks before a query let through is shorter
WIDEST = 2**63


def check_parameters(parameters: Mapping[str, object]) -> None:
    """Raise `InvalidSettingError` where a database could not take a parameter, whatever was checked before."""
    for name, value in parameters.items():
        too_long = isinstance(value, str) and (len(value) > LONGEST or "\0" in value)
        if too_long or (isinstance(value, int) and not -WIDEST <= value < WIDEST):
            raise InvalidSettingError(f"{name} {value!r:.40} is longer or larger than the catalogue takes: give less")


def event_of(row: Row) -> Event:
    number, at, action, subject, version, alias, digest, previous, actor, details, batch = row
    return Event(number, at, action, subject, version, alias, digest, previous, actor, parse_details(details), batch)


def version_row(row: Row, aliases: tuple[str, ...]) -> VersionRow:
    task, version, digest, nbytes, published_at, removed_at, backbone = row
    return VersionRow(task, version, Blob(digest, nbytes), published_at, removed_at, backbone, aliases)


def version_listings(select: Select, rows: list[Row]) -> tuple[VersionListing, ...]:
    """Add aliases and tags to rows of `LISTING_COLUMNS`."""
    tasks = sorted({row[0] for row in rows})
    aliases, tags = aliases_by_version(select, tasks), tags_by_version(select, tasks)
    return tuple(
        VersionListing(
            **dict(zip(LISTING, row, strict=True)),
            aliases=tuple(aliases[row[0], row[1]]),
            tags={**tags[row[0], 0], **tags[row[0], row[1]]},
        )
        for row in rows
    )


def aliases_by_version(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], list[str]]:
    where, parameters = in_tasks(tasks)
    aliases: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for task, alias, version in select(
        f"SELECT task, alias, version FROM aliases {where} ORDER BY alias", **parameters
    ):
        aliases[task, version].append(alias)
    return aliases


def tags_by_version(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], dict[str, str]]:
    where, parameters = in_tasks(tasks)
    tags: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for task, version, key, value in select(
        f"SELECT task, version, key, value FROM tags {where} ORDER BY key", **parameters
    ):
        tags[task, version][key] = value
    return tags


def in_tasks(tasks: list[str] | None) -> tuple[str, dict[str, str]]:
    """Return a WHERE clause for these tasks and its parameters; None means all tasks."""
    if tasks is None:
        return "", {}
    parameters = {f"task{number}": task for number, task in enumerate(tasks)}
    return f"WHERE task IN ({', '.join(f':{name}' for name in parameters) or 'NULL'})", parameters


def within_tenant(tenant: str | None, task: str) -> str:
    """Return a condition for the tasks of a tenant; it uses an index, so the time does not depend on other tenants."""
    return "" if tenant is None else f"AND {task} IN (SELECT task FROM tasks WHERE tenant = :tenant)"


def tag_value(version: str, number: int) -> str:
    return f"(SELECT value FROM tags WHERE task = v.task AND version = {version} AND key = :key{number})"


def api_key_of(row: Row) -> ApiKey:
    identifier, tenant, scopes, sha256, created_at, revoked_at = row
    return ApiKey(identifier, tenant, tuple(scopes.split()), sha256, created_at, revoked_at)


def scalar(rows: Iterable[Row]) -> Any:
    return next((row[0] for row in rows), None)


def without_none(**parameters: object) -> dict[str, object]:
    """Leave out parameters that are None: a statement names only those that it needs."""
    return {name: value for name, value in parameters.items() if value is not None}


def at_most(limit: int | None) -> str:
    return "" if limit is None else "LIMIT :limit"


def escape_like(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _refuse() -> AbstractContextManager[Select]:
    raise ClosedStoreError("the store was closed: open it again with `open_store(url)`")


class QueryBase:
    """Run queries, each within a snapshot that `connect` opens."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Select]]) -> None:
        self.connect = connect

    def close(self) -> None:
        """Answer no more."""
        self.connect = _refuse

    def check_open(self) -> None:
        """Raise `ClosedStoreError` after `close`."""
        if self.connect is _refuse:
            _refuse()

    @classmethod
    def within(cls, select: Select) -> Self:
        """Run the queries within a transaction that is already open."""

        @contextmanager
        def connect() -> Iterator[Select]:
            yield select

        return cls(connect)
