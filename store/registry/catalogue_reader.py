"""A store open for listing: what its catalogue says, without reading manifests or blobs.

The module imports only what this needs, so a command that lists answers at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from store.backends.base import Backend
from store.backends.identity import store_uuid
from store.backends.urls import open_backend
from store.errors import InvalidSettingError, TaskNotFoundError
from store.queries.reader import CATALOGUE_FORMAT, Queries
from store.queries.sqlite import SqliteRows, catalogue_file
from store.records.bounds import MAX_PAGE, check_number, check_text
from store.records.events import AliasRule, ApiKey, Event
from store.records.listing import Lease, Page, Search, VersionListing
from store.records.refs import NEAR, check_name, suggest, tenant_of
from store.records.splits import AliasSplit
from store.registry.opening import catalogue_path, check_catalogue, check_compatible, check_format, may_write


class CatalogueReader:
    """List what a store holds; made by `open`."""

    def __init__(self, backend: Backend, queries: Queries, *, read_only: bool, rows: SqliteRows | None) -> None:
        self.backend = backend
        self.queries = queries
        self.read_only = read_only
        self._sqlite = rows

    @classmethod
    def open(cls, root: str | Path, *, catalogue: str | None = None) -> Self:
        """Open the store at this URL or folder; `catalogue` may be the URL of an SQLite file."""
        backend = open_backend(root)
        identity = store_uuid(backend)
        check_format(backend)
        path = catalogue_path(backend, catalogue)
        if path is None:
            raise InvalidSettingError("a catalogue on a server is read through `Store.open`")
        check_catalogue(backend, path)
        read_only = not may_write(backend, path)
        rows = SqliteRows(catalogue_file(path, read_only=read_only))
        queries = Queries(rows.snapshot)
        check_compatible(queries, backend, identity, str(path))
        reader = cls(backend, queries, read_only=read_only, rows=rows)
        reader._follow_file(identity)
        return reader

    def _follow_file(self, identity: str) -> None:
        """Check a file that comes in the catalogue's place later, from a rebuild or a copy, as this one was."""
        if self._sqlite is None:
            return
        file, backend, location = self._sqlite.file, self.backend, str(self._sqlite.file.path)
        file.accept_with(lambda select: check_compatible(Queries.within(select), backend, identity, location))

    @property
    def url(self) -> str:
        return self.backend.url

    @property
    def catalogue_kind(self) -> str:
        return "SQLite" if self._sqlite is not None else "server"

    def last_change(self) -> str:
        """Return the digest of the history's last event: while it is the same, nothing was changed."""
        event = self.queries.event()
        return "" if event is None else event.sha256

    def catalogue_format(self) -> int:
        return self.queries.format()

    def catalogue_problems(self) -> list[str]:
        """Return what is wrong with the catalogue's format or its SQLite file; its contents are not checked."""
        number = self.queries.format()
        problems = [] if number == CATALOGUE_FORMAT else [f"its format is {number}, expected {CATALOGUE_FORMAT}"]
        return problems + (self._sqlite.problems() if self._sqlite is not None else [])

    def release_connections(self) -> None:
        """Close this thread's connections, which moves SQLite's log into its file; the next query opens one."""
        if self._sqlite is not None:
            self._sqlite.close()

    def close(self) -> None:
        """Close the connections; whatever is asked afterwards raises `ClosedStoreError`."""
        self.release_connections()
        self.queries.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def search(self, query: Search | None = None, *, after: str | None = None, limit: int = 50) -> Page:
        """List one version of each task: the one that `latest`, or the alias of the query, points at."""
        check_number("limit", limit, least=1, most=MAX_PAGE)
        check_text("after", after)
        return self.queries.search(query or Search(), after=after, limit=limit)

    def list_versions(
        self, task: str, *, removed: bool = False, after: int = 0, limit: int | None = None
    ) -> tuple[VersionListing, ...]:
        """List the versions of one task, with `removed` removed ones too: all, or a page after a number."""
        _check_page(after, limit)
        self.require_task(task, removed=removed)
        return self.queries.list_versions(task, removed=removed, after=after, limit=limit)

    def list_removed(self, task: str | None = None) -> tuple[VersionListing, ...]:
        """List the removed versions of one task, or of all tasks."""
        tasks = [task] if task else sorted({row.task for row in self.queries.versions(removed=True) if row.removed_at})
        return tuple(row for name in tasks for row in self.list_versions(name, removed=True) if row.removed_at)

    def tasks(self, tenant: str | None = None) -> list[str]:
        """Return the names of tasks that have a version; with `tenant`, those of one tenant."""
        return self.queries.tasks(tenant)

    def count_versions(self) -> int:
        """Return how many versions there are, removed ones too."""
        return self.queries.count_versions()

    def aliases(self, task: str) -> dict[str, int]:
        self.require_task(task)
        return self.queries.aliases(task)

    def rules(self, task: str | None = None) -> list[AliasRule]:
        return self.queries.rules(task)

    def split(self, task: str, alias: str) -> AliasSplit | None:
        """Return how the alias is split among versions, None where one version answers."""
        return self.queries.split(task, alias)

    def splits(self, task: str) -> list[AliasSplit]:
        """Return how aliases of the task are split among versions, of those that are."""
        self.require_task(task)
        return self.queries.splits(task)

    def tags(self, task: str, version: int | None = None) -> dict[str, str]:
        """Return the tags of a version, or those of the task itself."""
        self.require_task(task)
        return self.queries.tags(task, version or 0)

    def effective_tags(self, task: str, version: int) -> dict[str, str]:
        """Return the tags of a version over those of its task; no error where the version does not exist."""
        return self.queries.tags(task) | self.queries.tags(task, version)

    def leases(self) -> list[Lease]:
        """Return the leases that have not expired."""
        return self.queries.leases(now_s=time.time())

    def session_has_ended(self, session: str) -> bool:
        """Say whether a browser's session was ended at any server over this catalogue."""
        return self.queries.has_ended(session)

    def leased_versions(self, lease: Lease) -> list[str]:
        """Return the versions (`TASK:NUMBER`) whose manifests the lease holds."""
        rows = ((digest, row) for digest in lease.digests for row in self.queries.referencing_versions(digest))
        held = sorted((row.task, row.version) for digest, row in rows if row.manifest.sha256 == digest)
        return [f"{task}:{version}" for task, version in held]

    def api_keys(self, tenant: str | None = None, *, after: str = "", limit: int | None = None) -> list[ApiKey]:
        """Return API keys by id, all or a page, or those of one tenant; of a secret only the digest is known."""
        check_text("after", after)
        _check_page(0, limit)
        return self.queries.api_keys(tenant, after=after, limit=limit)

    def api_key(self, identifier: str) -> ApiKey | None:
        check_text("API key", identifier)
        return self.queries.api_key(identifier)

    def backbone_names(self) -> list[str]:
        return [row.name for row in self.queries.backbones()]

    def history(self, task: str, *, after: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of a task, oldest first: all, or a page without the first ones, `after` of them.

        A purged task still has its history.
        """
        _check_page(after, limit)
        events = self.queries.task_history(check_name(task, "task"), after=after, limit=limit)
        if not events:
            self.require_task(task)
        return events

    def require_task(self, task: str, *, removed: bool = False) -> None:
        """Raise `TaskNotFoundError` unless the task has a version."""
        if not self.queries.has_task(check_name(task, "task"), removed=removed):
            raise self._no_task(task)

    def _no_task(self, task: str) -> TaskNotFoundError:
        suggestion = suggest(task, self.queries.tasks_near(task, tenant_of(task), count=NEAR))
        return TaskNotFoundError(f"no task {task!r} in {self.url}: {suggestion}; see `store.search()`")


def _check_page(after: int, limit: int | None) -> None:
    check_number("after", after)
    if limit is not None:
        check_number("limit", limit, least=1, most=MAX_PAGE)
