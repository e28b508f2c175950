"""What is asked of tasks and versions, in SQL that SQLite and PostgreSQL share."""

from __future__ import annotations

from collections.abc import Iterator

from store.queries.sql import (
    LISTING_COLUMNS,
    UNREADABLE,
    VERSION,
    QueryBase,
    Row,
    escaped,
    given,
    listed_of,
    names_by_version,
    tag_value,
    version_row,
    within_tenant,
)
from store.records.events import LATEST
from store.records.listing import Page, Search, VersionListing, VersionRow


class VersionQueries(QueryBase):
    """Ask for tasks, their versions, aliases and tags."""

    def tasks(self, tenant: str | None = None) -> list[str]:
        """Return the names of tasks that have a version, of one tenant if given."""
        with self.connect() as select:
            rows = select(
                "SELECT DISTINCT v.task FROM versions v WHERE v.removed_at IS NULL "
                f"{within_tenant(tenant, 'v.task')} ORDER BY v.task",
                **given(tenant=tenant),
            )
            return [task for (task,) in rows]

    def has_task(self, task: str, *, removed: bool = False) -> bool:
        chosen = "" if removed else "AND removed_at IS NULL"
        with self.connect() as select:
            rows = select(f"SELECT 1 FROM versions WHERE task = :task {chosen} LIMIT 1", task=task)
            return next(iter(rows), None) is not None

    def find(
        self, task: str, *, version: int | None = None, digest: str | None = None, alias: str | None = None
    ) -> VersionRow | None:
        """Find one version by number, digest or alias."""
        by_alias = "JOIN aliases a ON a.task = v.task AND a.version = v.version AND a.alias = :alias" if alias else ""
        chosen = "AND v.version = :version" if version else "AND v.digest = :digest" if digest else ""
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION} FROM versions v {by_alias} WHERE v.task = :task AND v.removed_at IS NULL {chosen}",
                **given(task=task, version=version, digest=digest, alias=alias),
            )
            row = next(iter(rows), None)
            if row is None:
                return None
            names = select(
                "SELECT alias FROM aliases WHERE task = :task AND version = :version ORDER BY alias",
                task=task,
                version=row[1],
            )
            return version_row(row, tuple(name for (name,) in names))

    def versions(self, task: str | None = None, *, removed: bool = False) -> list[VersionRow]:
        """Return every version, or those of one task, by task and number; with `removed`, those not yet purged too."""
        chosen = ["1 = 1"] + ["v.task = :task"] * (task is not None) + ["v.removed_at IS NULL"] * (not removed)
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {VERSION} FROM versions v WHERE {' AND '.join(chosen)} ORDER BY v.task, v.version",
                    **given(task=task),
                )
            )
            names = names_by_version(select, [task] if task is not None else None)
        return [version_row(row, tuple(names[row[0], row[1]])) for row in rows]

    def unreadable(self) -> list[tuple[str, int]]:
        """Return the versions whose manifests a rebuild could not read: the blobs that they name are unknown."""
        with self.connect() as select:
            rows = select(
                "SELECT task, version FROM versions WHERE method = :method ORDER BY task, version", method=UNREADABLE
            )
            return [(task, version) for task, version in rows]

    def referencing_versions(self, digest: str) -> list[VersionRow]:
        """Return the versions that name a blob, removed ones too."""
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION} FROM named n JOIN versions v ON v.task = n.task AND v.version = n.version "
                "WHERE n.digest = :digest ORDER BY v.task, v.version",
                digest=digest,
            )
            return [version_row(row, ()) for row in rows]

    def page(self, search: Search, *, after: str | None, limit: int) -> Page:
        """List the version that each task's `latest` (or the alias searched for) names."""
        wanted = ["a.alias = :alias", "v.removed_at IS NULL"]
        wanted += ["v.task > :after"] * (after is not None)
        wanted += ["lower(v.task) LIKE :text ESCAPE '!'"] * (search.text is not None)
        wanted += ["(b.name = :backbone OR b.fingerprint = :backbone)"] * (search.backbone is not None)
        wanted += ["v.method = :method"] * (search.method is not None)
        parameters = given(
            alias=search.alias or LATEST,
            after=after,
            text=None if search.text is None else f"%{escaped(search.text.lower())}%",
            backbone=search.backbone,
            method=search.method,
            tenant=search.tenant,
            limit=limit + 1,
        )
        for number, (key, value) in enumerate(search.tags.items()):
            own, of_task = tag_value("v.version", number), tag_value("0", number)
            wanted.append(f"COALESCE({own}, {of_task}) = :value{number}")  # as it is shown
            parameters |= {f"key{number}": key, f"value{number}": value}
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTING_COLUMNS} FROM aliases a "
                    "JOIN versions v ON v.task = a.task AND v.version = a.version "
                    "JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE {' AND '.join(wanted)} {within_tenant(search.tenant, 'a.task')} "
                    "ORDER BY v.task LIMIT :limit",
                    **parameters,
                )
            )
            listed = listed_of(select, rows[:limit])
        return Page(listed, listed[-1].task if len(rows) > limit else None)

    def listed(self, task: str, *, removed: bool = False) -> tuple[VersionListing, ...]:
        """List every version of one task."""
        chosen = "" if removed else "AND v.removed_at IS NULL"
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTING_COLUMNS} FROM versions v JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE v.task = :task {chosen} ORDER BY v.version",
                    task=task,
                )
            )
            return listed_of(select, rows)

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

    def described(self, task: str) -> list[tuple[VersionRow, Row]]:
        """Return every version of one task, removed ones too, without its aliases, each with what the catalogue
        repeats of its manifest: depth, blocks, classes, method, and the bytes that it takes at rest.
        """
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION}, v.depth, v.blocks, v.classes, v.method, v.total_nbytes FROM versions v "
                "WHERE v.task = :task ORDER BY v.version",
                task=task,
            )
            return [(version_row(row[:7], ()), row[7:]) for row in rows]
