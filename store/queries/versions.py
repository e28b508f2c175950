"""Queries of tasks and versions, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Iterator

from store.queries.sql import (
    LISTING_COLUMNS,
    UNREADABLE,
    VERSION,
    QueryBase,
    Row,
    aliases_by_version,
    at_most,
    escape_like,
    scalar,
    tag_value,
    version_listings,
    version_row,
    within_tenant,
    without_none,
)
from store.records.events import LATEST
from store.records.listing import Page, Search, VersionListing, VersionRow


class VersionQueries(QueryBase):
    """Find tasks, their versions, aliases and tags."""

    def tasks(self, tenant: str | None = None) -> list[str]:
        """Return the names of tasks that have a version, of one tenant if given."""
        with self.connect() as select:
            rows = select(
                "SELECT DISTINCT v.task FROM versions v WHERE v.removed_at IS NULL "
                f"{within_tenant(tenant, 'v.task')} ORDER BY v.task",
                **without_none(tenant=tenant),
            )
            return [task for (task,) in rows]

    def tasks_near(self, task: str, tenant: str, *, count: int) -> list[str]:
        """Return up to so many names before and after this one, and the first ones of the tenant, by name."""
        of_tenant = (
            f"SELECT DISTINCT v.task FROM versions v WHERE v.removed_at IS NULL {within_tenant(tenant, 'v.task')}"
        )
        sides = ("AND v.task < :task ORDER BY v.task DESC", "AND v.task > :task ORDER BY v.task", "ORDER BY v.task")
        with self.connect() as select:
            names: set[str] = set()
            for side in sides:
                given = {"task": task} if ":task" in side else {}
                rows = select(f"{of_tenant} {side} LIMIT :count", **given, tenant=tenant, count=count)
                names.update(name for (name,) in rows)
        return sorted(names)

    def has_task(self, task: str, *, removed: bool = False) -> bool:
        where = "" if removed else "AND removed_at IS NULL"
        with self.connect() as select:
            rows = select(f"SELECT 1 FROM versions WHERE task = :task {where} LIMIT 1", task=task)
            return next(iter(rows), None) is not None

    def find(
        self, task: str, *, version: int | None = None, digest: str | None = None, alias: str | None = None
    ) -> VersionRow | None:
        """Find one version by number, digest or alias."""
        by_alias = "JOIN aliases a ON a.task = v.task AND a.version = v.version AND a.alias = :alias" if alias else ""
        where = "AND v.version = :version" if version else "AND v.digest = :digest" if digest else ""
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION} FROM versions v {by_alias} WHERE v.task = :task AND v.removed_at IS NULL {where}",
                **without_none(task=task, version=version, digest=digest, alias=alias),
            )
            row = next(iter(rows), None)
            if row is None:
                return None
            aliases = select(
                "SELECT alias FROM aliases WHERE task = :task AND version = :version ORDER BY alias",
                task=task,
                version=row[1],
            )
            return version_row(row, tuple(alias for (alias,) in aliases))

    def versions(self, task: str | None = None, *, removed: bool = False) -> list[VersionRow]:
        """Return every version, or those of one task, by task and number; with `removed`, removed ones too."""
        conditions = ["1 = 1"] + ["v.task = :task"] * (task is not None) + ["v.removed_at IS NULL"] * (not removed)
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {VERSION} FROM versions v WHERE {' AND '.join(conditions)} ORDER BY v.task, v.version",
                    **without_none(task=task),
                )
            )
            aliases = aliases_by_version(select, [task] if task is not None else None)
        return [version_row(row, tuple(aliases[row[0], row[1]])) for row in rows]

    def unreadable(self) -> list[tuple[str, int]]:
        """Return the versions whose manifests a rebuild could not read: which blobs they reference is unknown."""
        with self.connect() as select:
            rows = select(
                "SELECT task, version FROM versions WHERE method = :method ORDER BY task, version", method=UNREADABLE
            )
            return [(task, version) for task, version in rows]

    def referencing_versions(self, digest: str) -> list[VersionRow]:
        """Return the versions that reference a blob, removed ones too."""
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION} FROM named n JOIN versions v ON v.task = n.task AND v.version = n.version "
                "WHERE n.digest = :digest ORDER BY v.task, v.version",
                digest=digest,
            )
            return [version_row(row, ()) for row in rows]

    def search(self, query: Search, *, after: str | None, limit: int) -> Page:
        """List the version that `latest`, or the alias of the query, points at, for each task that matches."""
        conditions = ["a.alias = :alias", "v.removed_at IS NULL"]
        conditions += ["v.task > :after"] * (after is not None)
        conditions += ["lower(v.task) LIKE :text ESCAPE '!'"] * (query.text is not None)
        conditions += ["(b.name = :backbone OR b.fingerprint = :backbone)"] * (query.backbone is not None)
        conditions += ["v.method = :method"] * (query.method is not None)
        parameters = without_none(
            alias=query.alias or LATEST,
            after=after,
            text=None if query.text is None else f"%{escape_like(query.text.lower())}%",
            backbone=query.backbone,
            method=query.method,
            tenant=query.tenant,
            limit=limit + 1,
        )
        for number, (key, value) in enumerate(query.tags.items()):
            own, of_task = tag_value("v.version", number), tag_value("0", number)
            conditions.append(f"COALESCE({own}, {of_task}) = :value{number}")  # a version's own tag before its task's
            parameters |= {f"key{number}": key, f"value{number}": value}
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTING_COLUMNS} FROM aliases a "
                    "JOIN versions v ON v.task = a.task AND v.version = a.version "
                    "JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE {' AND '.join(conditions)} {within_tenant(query.tenant, 'a.task')} "
                    "ORDER BY v.task LIMIT :limit",
                    **parameters,
                )
            )
            listings = version_listings(select, rows[:limit])
        return Page(listings, listings[-1].task if len(rows) > limit else None)

    def list_versions(
        self, task: str, *, removed: bool = False, after: int = 0, limit: int | None = None
    ) -> tuple[VersionListing, ...]:
        """List the versions of one task with numbers above `after`, at most `limit` of them."""
        where = "" if removed else "AND v.removed_at IS NULL"
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTING_COLUMNS} FROM versions v JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE v.task = :task AND v.version > :after {where} ORDER BY v.version {at_most(limit)}",
                    **without_none(task=task, after=after, limit=limit),
                )
            )
            return version_listings(select, rows)

    def aliases(self, task: str) -> dict[str, int]:
        with self.connect() as select:
            return dict(select("SELECT alias, version FROM aliases WHERE task = :task ORDER BY alias", task=task))

    def all_aliases(self) -> Iterator[tuple[str, str, int]]:
        with self.connect() as select:
            yield from select("SELECT task, alias, version FROM aliases")

    def tags(self, task: str, version: int = 0) -> dict[str, str]:
        """Return the tags of a version, or of the task itself."""
        with self.connect() as select:
            return dict(
                select(
                    "SELECT key, value FROM tags WHERE task = :task AND version = :version ORDER BY key",
                    task=task,
                    version=version,
                )
            )

    def all_tags(self) -> Iterator[tuple[str, int, str, str]]:
        with self.connect() as select:
            yield from select("SELECT task, version, key, value FROM tags")

    def count_versions(self) -> int:
        """Return how many versions there are, removed ones too."""
        with self.connect() as select:
            return int(scalar(select("SELECT COUNT(*) FROM versions")))

    def all_tasks(self) -> list[str]:
        """Return the tasks of all versions, removed ones too."""
        with self.connect() as select:
            return [task for (task,) in select("SELECT DISTINCT task FROM versions ORDER BY task")]

    def next_versions(self) -> dict[str, int]:
        with self.connect() as select:
            return dict(select("SELECT task, next_version FROM tasks"))

    def tenants(self) -> dict[str, str]:
        """Return the tenant that each task is listed under."""
        with self.connect() as select:
            return dict(select("SELECT task, tenant FROM tasks"))

    def manifest_columns(self, task: str) -> list[tuple[VersionRow, Row]]:
        """Return every version of one task, removed ones too, without its aliases, each with the columns that repeat
        its manifest: depth, blocks, classes, method, and the bytes that it takes at rest.
        """
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION}, v.depth, v.blocks, v.classes, v.method, v.total_nbytes FROM versions v "
                "WHERE v.task = :task ORDER BY v.version",
                task=task,
            )
            return [(version_row(row[:7], ()), row[7:]) for row in rows]
