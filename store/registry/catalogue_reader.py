"""A store open for listing: what its catalogue says, without a look into what was published.

It loads nothing that this does not need, as a command that lists should answer at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from store.backends.base import Backend
from store.backends.identity import store_uuid
from store.backends.urls import open_backend
from store.errors import (
    InvalidSettingError,
    TaskNotFoundError,
)
from store.queries.reader import CATALOGUE_FORMAT, Queries
from store.queries.sqlite import SqliteRows
from store.records.events import TASK_ACTIONS, AliasRule, Event
from store.records.listing import Lease, Page, Search, VersionListing
from store.records.refs import check_name, suggest, tenant_of
from store.registry.opening import catalogue_path, check_catalogue, check_compatible, check_format, may_write


class CatalogueReader:
    """List what a store holds; made by `open`."""

    def __init__(self, backend: Backend, reader: Queries, *, read_only: bool, rows: SqliteRows | None) -> None:
        self.backend = backend
        self.queries = reader
        self.read_only = read_only
        self._sqlite = rows

    @classmethod
    def open(cls, root: str | Path, *, catalogue: str | None = None) -> Self:
        """Open the store at this address; `catalogue` may be the URL of an SQLite file."""
        backend = open_backend(root)
        identity = store_uuid(backend)
        check_format(backend)
        path = catalogue_path(backend, catalogue)
        if path is None:
            raise InvalidSettingError("a catalogue on a server is read through `Store.open`")
        check_catalogue(backend, path)
        read_only = not may_write(backend, path)
        rows = SqliteRows(path, read_only=read_only)
        reader = Queries(rows.snapshot)
        check_compatible(reader, backend, identity, str(path))
        return cls(backend, reader, read_only=read_only, rows=rows)

    @property
    def url(self) -> str:
        return self.backend.url

    def catalogue_problems(self) -> list[str]:
        """Return what is wrong with the catalogue's own file or format, before what it says is looked at."""
        found = self.queries.format()
        wrong = [] if found == CATALOGUE_FORMAT else [f"its format is {found}, expected {CATALOGUE_FORMAT}"]
        return wrong + (self._sqlite.problems() if self._sqlite is not None else [])

    def release_connections(self) -> None:
        """Close this thread's connections, which folds SQLite's log into its file; the next question opens one."""
        if self._sqlite is not None:
            self._sqlite.close()

    def close(self) -> None:
        self.release_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def page(self, *, search: Search | None = None, after: str | None = None, limit: int = 50) -> Page:
        """List one version a task: the one that `latest` names, or the alias searched for."""
        if limit < 1:
            raise InvalidSettingError(f"limit {limit} lists nothing: use at least 1")
        return self.queries.page(search or Search(), after=after, limit=limit)

    def listed(self, task: str, *, removed: bool = False) -> tuple[VersionListing, ...]:
        """List every version of one task."""
        self.require_task(task, removed=removed)
        return self.queries.listed(task, removed=removed)

    def aliases(self, task: str) -> dict[str, int]:
        self.require_task(task)
        return self.queries.aliases(task)

    def rules(self, task: str | None = None) -> list[AliasRule]:
        return self.queries.rules(task)

    def tags(self, task: str, version: int | None = None) -> dict[str, str]:
        """Return the tags of a version, or those of the task itself."""
        self.require_task(task)
        return self.queries.tags(task, version or 0)

    def leases(self) -> list[Lease]:
        return self.queries.leases(now_s=time.time())

    def history(self, task: str) -> list[Event]:
        """Return what happened to a task, oldest first; one that was purged still has its history."""
        events = [e for e in self.queries.history(check_name(task, "task")) if e.action in TASK_ACTIONS]
        if not events:
            self.require_task(task)
        return events

    def require_task(self, task: str, *, removed: bool = False) -> None:
        """Raise `TaskNotFoundError` unless the task has a version."""
        if not self.queries.has_task(check_name(task, "task"), removed=removed):
            raise self._no_task(task)

    def _no_task(self, task: str) -> TaskNotFoundError:
        return TaskNotFoundError(
            f"no task {task!r} in {self.url}: {suggest(task, self.queries.tasks(tenant_of(task)))}; see `onetrunk ls`"
        )
