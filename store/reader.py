"""Everything that is ever asked of the catalogue, in SQL that SQLite and PostgreSQL share.

Reading needs no database library beyond the standard one where the catalogue is SQLite: what only lists starts fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from store.blob import Blob
from store.errors import IntegrityError
from store.events import LATEST, AliasRule, BackboneRow, Event, Key, parse_details

CATALOGUE_FORMAT = 2
"""Raise it when the tables change, and teach `store.migrate` the step."""

UNREADABLE = "unreadable"
"""The method of a version of which nothing but its digest is known."""
EVENT = "number, at, action, subject, version, alias, digest, previous, actor, details, batch"
VERSION = "v.task, v.version, v.digest, v.nbytes, v.published_at, v.removed_at, v.backbone"
LISTED = f"{VERSION}, v.depth, v.blocks, v.classes, v.method, v.total_nbytes, b.name"
PROTECTED: Mapping[Any, Any] = {0: False, 1: True}  # another value stays what it is, for the audit to find

Row = tuple[Any, ...]
Select = Callable[..., Iterable[Row]]
"""Run one statement with named parameters and give its rows."""


class VersionRow(NamedTuple):
    task: str
    version: int
    manifest: Blob
    published_at: str
    removed_at: str | None
    backbone: str
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """A version as a listing shows it, without its manifest; `backbone` is the name, `tags` are its own and its task's.

    `nbytes` is what the version takes at rest.
    """

    task: str
    version: int
    aliases: tuple[str, ...]
    backbone: str
    depth: int
    blocks: int
    classes: int
    method: str
    nbytes: int
    digest: str
    published_at: str
    removed_at: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Search:
    """What a listing is narrowed to; `text` is looked for in the name, `tenant` "" means names without a tenant."""

    text: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    backbone: str | None = None
    method: str | None = None
    alias: str | None = None
    tenant: str | None = None


class Page(NamedTuple):
    """Rows in the order of their tasks; `next` is what `after` must be for those that follow, None at the end."""

    rows: tuple[Listed, ...]
    next: str | None


class Lease(NamedTuple):
    """What a replica or a publish in flight holds until it expires (seconds since the epoch)."""

    id: str
    holder: str
    expires_at: float
    digests: tuple[str, ...]


class Reader:
    """Ask questions within a snapshot that `connect` opens."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Select]]) -> None:
        self.connect = connect

    @classmethod
    def within(cls, select: Select) -> Reader:
        """Read within a transaction that is open already."""

        @contextmanager
        def connect() -> Iterator[Select]:
            yield select

        return cls(connect)

    def format(self) -> int:
        with self.connect() as select:
            found = str(_scalar(select("SELECT value FROM meta WHERE key = 'format'")) or 0)
        if not found.isascii() or not found.isdigit():
            raise IntegrityError(f"the catalogue has format {found[:40]!r}: restore it from a copy")
        return int(found)

    def identity(self) -> str | None:
        """Return the UUID of the store that the history began with."""
        with self.connect() as select:
            found = _scalar(select("SELECT subject FROM history WHERE number = 1"))
            return None if found is None else str(found)

    def backbones(self, *, without_weights: bool = False) -> list[BackboneRow]:
        """Return every backbone, or those of which the catalogue knows no weights."""
        chosen = "WHERE weights IS NULL" if without_weights else ""
        with self.connect() as select:
            rows = select(f"SELECT name, fingerprint, record, record_nbytes FROM backbones {chosen} ORDER BY name")
            return [BackboneRow(*row) for row in rows]

    def backbone(self, name_or_fingerprint: str) -> BackboneRow | None:
        with self.connect() as select:
            rows = select(
                "SELECT name, fingerprint, record, record_nbytes FROM backbones "
                "WHERE name = :key OR fingerprint = :key",
                key=name_or_fingerprint,
            )
            return next((BackboneRow(*row) for row in rows), None)

    def backbone_blobs(self) -> list[tuple[str, Blob]]:
        """Return the blobs of backbones, each with the backbone's name."""
        with self.connect() as select:
            rows = list(select("SELECT name, record, record_nbytes, weights, weights_nbytes FROM backbones"))
        records = [(name, Blob(record, nbytes)) for name, record, nbytes, _, _ in rows]
        return records + [(name, Blob(weights, nbytes or 0)) for name, _, _, weights, nbytes in rows if weights]

    def tasks(self, tenant: str | None = None) -> list[str]:
        """Return the names of tasks that have a version, of one tenant if given."""
        with self.connect() as select:
            rows = select(
                "SELECT DISTINCT v.task FROM versions v WHERE v.removed_at IS NULL "
                f"{_within(tenant, 'v.task')} ORDER BY v.task",
                **_given(tenant=tenant),
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
                **_given(task=task, version=version, digest=digest, alias=alias),
            )
            row = next(iter(rows), None)
            if row is None:
                return None
            names = select(
                "SELECT alias FROM aliases WHERE task = :task AND version = :version ORDER BY alias",
                task=task,
                version=row[1],
            )
            return _version_row(row, tuple(name for (name,) in names))

    def versions(self, task: str | None = None, *, removed: bool = False) -> list[VersionRow]:
        """Return every version, or those of one task, by task and number; with `removed`, those not yet purged too."""
        chosen = ["1 = 1"] + ["v.task = :task"] * (task is not None) + ["v.removed_at IS NULL"] * (not removed)
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {VERSION} FROM versions v WHERE {' AND '.join(chosen)} ORDER BY v.task, v.version",
                    **_given(task=task),
                )
            )
            names = _names(select, [task] if task is not None else None)
        return [_version_row(row, tuple(names[row[0], row[1]])) for row in rows]

    def unreadable(self) -> list[tuple[str, int]]:
        """Return the versions whose manifests a rebuild could not read: the blobs that they name are unknown."""
        with self.connect() as select:
            rows = select(
                "SELECT task, version FROM versions WHERE method = :method ORDER BY task, version", method=UNREADABLE
            )
            return [(task, version) for task, version in rows]

    def naming(self, digest: str) -> list[VersionRow]:
        """Return the versions that name a blob, removed ones too."""
        with self.connect() as select:
            rows = select(
                f"SELECT {VERSION} FROM named n JOIN versions v ON v.task = n.task AND v.version = n.version "
                "WHERE n.digest = :digest ORDER BY v.task, v.version",
                digest=digest,
            )
            return [_version_row(row, ()) for row in rows]

    def page(self, search: Search, *, after: str | None, limit: int) -> Page:
        """List the version that each task's `latest` (or the alias searched for) names."""
        wanted = ["a.alias = :alias", "v.removed_at IS NULL"]
        wanted += ["v.task > :after"] * (after is not None)
        wanted += ["lower(v.task) LIKE :text ESCAPE '!'"] * (search.text is not None)
        wanted += ["(b.name = :backbone OR b.fingerprint = :backbone)"] * (search.backbone is not None)
        wanted += ["v.method = :method"] * (search.method is not None)
        parameters = _given(
            alias=search.alias or LATEST,
            after=after,
            text=None if search.text is None else f"%{_escaped(search.text.lower())}%",
            backbone=search.backbone,
            method=search.method,
            tenant=search.tenant,
            limit=limit + 1,
        )
        for number, (key, value) in enumerate(search.tags.items()):
            wanted.append(
                f"COALESCE({_tag('v.version', number)}, {_tag('0', number)}) = :value{number}"  # as it is shown
            )
            parameters |= {f"key{number}": key, f"value{number}": value}
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTED} FROM aliases a JOIN versions v ON v.task = a.task AND v.version = a.version "
                    "JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE {' AND '.join(wanted)} {_within(search.tenant, 'a.task')} ORDER BY v.task LIMIT :limit",
                    **parameters,
                )
            )
            listed = _listed(select, rows[:limit])
        return Page(listed, listed[-1].task if len(rows) > limit else None)

    def listed(self, task: str, *, removed: bool = False) -> tuple[Listed, ...]:
        """List every version of one task."""
        chosen = "" if removed else "AND v.removed_at IS NULL"
        with self.connect() as select:
            rows = list(
                select(
                    f"SELECT {LISTED} FROM versions v JOIN backbones b ON b.fingerprint = v.backbone "
                    f"WHERE v.task = :task {chosen} ORDER BY v.version",
                    task=task,
                )
            )
            return _listed(select, rows)

    def aliases(self, task: str) -> dict[str, int]:
        with self.connect() as select:
            return dict(select("SELECT alias, version FROM aliases WHERE task = :task ORDER BY alias", task=task))

    def all_aliases(self) -> Iterator[tuple[str, str, int]]:
        with self.connect() as select:
            yield from select("SELECT task, alias, version FROM aliases")

    def rules(self, task: str | None = None) -> list[AliasRule]:
        """Return every rule, or those that hold for a task, its own before its tenant's before everyone's."""
        scopes = [task, f"{task.partition('/')[0]}/*" if "/" in task else "*", "*"] if task else []
        chosen, parameters = _among(scopes or None)
        with self.connect() as select:
            rows = [
                AliasRule(name, alias, PROTECTED.get(protected, protected), max_drop, min_accuracy)
                for name, alias, protected, max_drop, min_accuracy in select(
                    f"SELECT task, alias, protected, max_drop, min_accuracy FROM rules {chosen} ORDER BY task, alias",
                    **parameters,
                )
            ]
        return sorted(rows, key=lambda rule: scopes.index(rule.task)) if task else rows

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

    def all_tasks(self) -> list[str]:
        """Return the tasks of all versions, removed ones too."""
        with self.connect() as select:
            return [task for (task,) in select("SELECT DISTINCT task FROM versions ORDER BY task")]

    def all_tags(self) -> Iterator[tuple[str, int, str, str]]:
        with self.connect() as select:
            yield from select("SELECT task, version, key, value FROM tags")

    def next_versions(self) -> dict[str, int]:
        with self.connect() as select:
            return dict(select("SELECT task, next_version FROM tasks"))

    def tenants(self) -> dict[str, str]:
        """Return the tenant that each task is listed under."""
        with self.connect() as select:
            return dict(select("SELECT task, tenant FROM tasks"))

    def keys(self, tenant: str | None = None) -> list[Key]:
        """Return every API key, or those of one tenant."""
        chosen = "WHERE tenant = :tenant" if tenant is not None else ""
        with self.connect() as select:
            return [
                _key(row)
                for row in select(
                    f"SELECT id, tenant, scopes, sha256, created_at, revoked_at FROM keys {chosen} ORDER BY id",
                    **_given(tenant=tenant),
                )
            ]

    def key(self, identifier: str) -> Key | None:
        with self.connect() as select:
            rows = select(
                "SELECT id, tenant, scopes, sha256, created_at, revoked_at FROM keys WHERE id = :id", id=identifier
            )
            return next((_key(row) for row in rows), None)

    def leases(self, *, now_s: float) -> list[Lease]:
        """Return those that have not expired."""
        held = defaultdict(list)
        with self.connect() as select:
            rows = list(
                select("SELECT id, holder, expires_at FROM leases WHERE expires_at > :now ORDER BY id", now=now_s)
            )
            for lease, digest in select("SELECT lease, digest FROM holds ORDER BY digest"):
                held[lease].append(digest)
        return [Lease(i, holder, expires_at, tuple(held[i])) for i, holder, expires_at in rows]

    def condemned(self) -> dict[str, float]:
        """Return what the collector has marked, and since when, in seconds since the epoch."""
        with self.connect() as select:
            return dict(select("SELECT digest, since FROM condemned"))

    def holders(self, digest: str, *, now_s: float) -> list[str]:
        """Return who holds the digest with a lease that has not expired."""
        with self.connect() as select:
            rows = select(
                "SELECT l.holder FROM holds h JOIN leases l ON l.id = h.lease "
                "WHERE h.digest = :digest AND l.expires_at > :now ORDER BY l.holder",
                digest=digest,
                now=now_s,
            )
            return [holder for (holder,) in rows]

    def history(self, subject: str | None = None, *, since: int = 0) -> Iterator[Event]:
        """Yield every event after number `since`, or those of one subject, oldest first."""
        chosen = "AND subject = :subject" if subject is not None else ""
        with self.connect() as select:
            for row in select(
                f"SELECT {EVENT} FROM history WHERE number > :since {chosen} ORDER BY number",
                **_given(since=since, subject=subject),
            ):
                yield event_of(row)

    def batch(self, number: int) -> list[Event]:
        """Return the events of the transaction that this number belongs to the first of; format 1 had one an event."""
        with self.connect() as select:
            rows = select(
                f"SELECT {EVENT} FROM history WHERE number >= :number AND COALESCE(batch, number) = :number "
                "ORDER BY number",
                number=number,
            )
            return [event_of(row) for row in rows]

    def event(self, number: int | None = None) -> Event | None:
        """Return the event of this number, or the last."""
        chosen = "WHERE number = :number" if number is not None else ""
        with self.connect() as select:
            rows = select(f"SELECT {EVENT} FROM history {chosen} ORDER BY number DESC LIMIT 1", **_given(number=number))
            return next((event_of(row) for row in rows), None)

    def version_at(self, task: str, alias: str, at: str) -> int | None:
        """Return the version that the alias named at a time (ISO 8601, UTC, milliseconds), None where it named none."""
        with self.connect() as select:
            rows = select(
                "SELECT action, version FROM history WHERE subject = :task AND alias = :alias AND at <= :at "
                "AND action IN ('alias', 'alias-rm') ORDER BY number DESC LIMIT 1",
                task=task,
                alias=alias,
                at=at,
            )
            return next((version for action, version in rows if action == "alias"), None)

    def digest_at(self, task: str, version: int) -> str | None:
        """Return the digest that this number was published with, even where the version is gone."""
        with self.connect() as select:
            found = _scalar(
                select(
                    "SELECT digest FROM history WHERE subject = :task AND version = :version AND action = 'publish'",
                    task=task,
                    version=version,
                )
            )
            return None if found is None else str(found)

    def named(self) -> Iterator[tuple[str, int, Blob, bool]]:
        """Yield every blob of every version, with task and number, and whether the version is removed."""
        with self.connect() as select:
            for task, version, digest, nbytes, removed_at in select(
                "SELECT n.task, n.version, n.digest, n.nbytes, v.removed_at FROM named n "
                "JOIN versions v ON v.task = n.task AND v.version = n.version"
            ):
                yield task, version, Blob(digest, nbytes), removed_at is not None

    def names_of(self, task: str) -> dict[int, set[tuple[str, int]]]:
        """Return the digest and size of each blob that a version of a task names, by version, removed ones too."""
        found: defaultdict[int, set[tuple[str, int]]] = defaultdict(set)
        with self.connect() as select:
            for version, digest, nbytes in select(
                "SELECT version, digest, nbytes FROM named WHERE task = :task", task=task
            ):
                found[version].add((digest, nbytes))
        return found

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
            return [(_version_row(row[:7], ()), row[7:]) for row in rows]

    def freed_nbytes(self, task: str, versions: Iterable[int], *, tenant: str | None = None) -> int:
        """Return the bytes of blobs that only these versions name, and such as are removed already, among all tasks or
        among one tenant's.
        """
        leaving = {(task, version) for version in versions}
        freed: dict[str, int] = {}
        with self.connect() as select:
            for version in sorted(version for _, version in leaving):
                for digest, nbytes in select(
                    "SELECT digest, nbytes FROM named WHERE task = :task AND version = :version",
                    task=task,
                    version=version,
                ):
                    freed[digest] = nbytes
            for digest in list(freed):
                names = select(
                    "SELECT n.task, n.version FROM named n "
                    "JOIN versions v ON v.task = n.task AND v.version = n.version "
                    f"WHERE n.digest = :digest AND v.removed_at IS NULL {_within(tenant, 'n.task')}",
                    **_given(digest=digest, tenant=tenant),
                )
                if not all(name in leaving for name in names):
                    del freed[digest]
        return sum(freed.values())


def event_of(row: Row) -> Event:
    number, at, action, subject, version, alias, digest, previous, actor, details, batch = row
    return Event(number, at, action, subject, version, alias, digest, previous, actor, parse_details(details), batch)


def _version_row(row: Row, aliases: tuple[str, ...]) -> VersionRow:
    task, version, digest, nbytes, published_at, removed_at, backbone = row
    return VersionRow(task, version, Blob(digest, nbytes), published_at, removed_at, backbone, aliases)


def _listed(select: Select, rows: list[Row]) -> tuple[Listed, ...]:
    tasks = sorted({row[0] for row in rows})
    names, tags = _names(select, tasks), _tags(select, tasks)
    return tuple(
        Listed(
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


def _names(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], list[str]]:
    chosen, parameters = _among(tasks)
    names: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for task, alias, version in select(
        f"SELECT task, alias, version FROM aliases {chosen} ORDER BY alias", **parameters
    ):
        names[task, version].append(alias)
    return names


def _tags(select: Select, tasks: list[str] | None) -> defaultdict[tuple[str, int], dict[str, str]]:
    chosen, parameters = _among(tasks)
    tags: defaultdict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for task, version, key, value in select(
        f"SELECT task, version, key, value FROM tags {chosen} ORDER BY key", **parameters
    ):
        tags[task, version][key] = value
    return tags


def _among(tasks: list[str] | None) -> tuple[str, dict[str, str]]:
    if tasks is None:
        return "", {}
    parameters = {f"task{number}": task for number, task in enumerate(tasks)}
    return f"WHERE task IN ({', '.join(f':{name}' for name in parameters) or 'NULL'})", parameters


def _within(tenant: str | None, task: str) -> str:
    """Narrow to the tasks of a tenant, found by its index: the time must not depend on what others have."""
    return "" if tenant is None else f"AND {task} IN (SELECT task FROM tasks WHERE tenant = :tenant)"


def _tag(version: str, number: int) -> str:
    return f"(SELECT value FROM tags WHERE task = v.task AND version = {version} AND key = :key{number})"


def _key(row: Row) -> Key:
    identifier, tenant, scopes, sha256, created_at, revoked_at = row
    return Key(identifier, tenant, tuple(scopes.split()), sha256, created_at, revoked_at)


def _scalar(rows: Iterable[Row]) -> Any:
    return next((row[0] for row in rows), None)


def _given(**parameters: object) -> dict[str, object]:
    """Leave out what is None: a statement names only the parameters that it needs."""
    return {name: value for name, value in parameters.items() if value is not None}


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
