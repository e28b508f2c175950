"""The catalogue's tables beside the state that the history adds up to: compared, and filled from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TypeVar

import sqlalchemy as sa

from store.adapters.manifests import entry_of
from store.backends.blobs import Blobs
from store.catalogue.replay import Published, State
from store.catalogue.schema import aliases, backbones, keys, meta, named, rules, tags, tasks, versions
from store.catalogue.versions import names_of, row_of
from store.errors import FormatError, IntegrityError
from store.queries.reader import CATALOGUE_FORMAT, Queries
from store.queries.references import read_backbone_record, read_manifest
from store.queries.sql import UNREADABLE
from store.records.blob import Blob
from store.records.events import ApiKey, BackboneRow
from store.records.listing import CatalogueEntry, VersionRow
from store.records.refs import tenant_of

CHUNK = 1000  # rows inserted at a time

K = TypeVar("K")
V = TypeVar("V")

REMEDY = "it was changed behind the history; restore the catalogue from a copy, or move it away and `onetrunk rebuild`"


def differences(state: State, reader: Queries) -> Iterator[tuple[str, str]]:
    """Yield, with its owner, everything that a table says and the history does not, or the other way round."""
    yield from _compare_versions(state, reader)
    yield from _compare("next version", reader.next_versions(), state.next_versions, str)
    yield from _compare("tenant of", reader.tenants(), {task: tenant_of(task) for task in state.next_versions}, str)
    moved = {(task, alias): version for task, alias, version in reader.all_aliases()}
    yield from _compare("alias", moved, state.aliases, _at)
    said = {(task, version, key): value for task, version, key, value in reader.all_tags()}
    yield from _compare("tag", said, state.tags, lambda place: f"{place[0]}:{place[1]} {place[2]}")
    asked = {(rule.task, rule.alias): rule for rule in reader.rules()}
    yield from _compare("rule", asked, state.rules, _at)
    yield from _compare("backbone", {row.fingerprint: row for row in reader.backbones()}, state.backbones, str)
    yield from _compare("API key", {key.id: key for key in reader.keys(None)}, state.keys, str)


def _compare_versions(state: State, reader: Queries) -> Iterator[tuple[str, str]]:
    """Compare task by task: a store may hold more versions than memory should hold twice."""
    said: defaultdict[str, dict[str, Published]] = defaultdict(dict)
    for (task, number), published in state.versions.items():
        said[task][f"{task}:{number}"] = published
    for task in sorted({*said, *reader.all_tasks()}):
        table = {
            f"{task}:{row.version}": Published(
                row.manifest.sha256, row.manifest.nbytes, row.backbone, row.published_at, row.removed_at
            )
            for row in reader.versions(task, removed=True)
        }
        yield from _compare("version", table, said[task], str)


def _at(place: tuple[object, object]) -> str:
    return f"{place[0]}@{place[1]}"


def _compare(
    kind: str, table: Mapping[K, V], said: Mapping[K, V], name: Callable[[K], str]
) -> Iterator[tuple[str, str]]:
    for place in sorted(table.keys() | said.keys(), key=str):
        if table.get(place) != said.get(place):
            yield (
                name(place),
                f"{kind} {name(place)} is {table.get(place)}, the history says {said.get(place)}: {REMEDY}",
            )


class ManifestReader:
    """Read what the history does not say: manifests and records; what cannot be read is told in `problems`, a line
    each, and keeps its name and its digest.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.problems: list[str] = []

    def version(self, task: str, number: int, published: Published) -> CatalogueEntry:
        manifest = Blob(published.digest, published.nbytes)
        row = VersionRow(task, number, manifest, published.published_at, None, published.backbone, ())
        try:
            return entry_of(read_manifest(self._blobs, row), manifest)
        except (IntegrityError, FormatError) as error:
            self.problems.append(f"{task}:{number}: {error}")
            return CatalogueEntry(manifest, published.backbone, 0, 0, 0, UNREADABLE, (), None)

    def backbone(self, row: BackboneRow) -> dict[str, object]:
        weights: Blob | None = None
        try:
            weights = read_backbone_record(self._blobs, row).weights
        except (IntegrityError, FormatError) as error:
            self.problems.append(f"backbone {row.name}: {error}")
        sha256, nbytes = (weights.sha256, weights.nbytes) if weights else (None, None)
        return {**asdict(row), "weights": sha256, "weights_nbytes": nbytes}


def fill(connection: sa.Connection, state: State, describing: ManifestReader) -> None:
    """Write the whole state into empty tables."""
    connection.execute(meta.insert().values(key="format", value=str(CATALOGUE_FORMAT)))
    _insert(connection, backbones, (describing.backbone(row) for row in state.backbones.values()))
    _insert(
        connection,
        tasks,
        ({"task": t, "tenant": tenant_of(t), "next_version": n} for t, n in state.next_versions.items()),
    )
    rows: list[dict[str, object]] = []
    names: list[dict[str, object]] = []
    for (task, version), published in state.versions.items():
        entry = describing.version(task, version, published)
        kept = {"backbone": published.backbone, "removed_at": published.removed_at}
        rows.append({"task": task, "version": version, **row_of(entry, published.published_at), **kept})
        names += names_of(task, version, entry)
        if len(rows) == CHUNK:
            _insert(connection, versions, iter(rows))
            _insert(connection, named, iter(names))
            rows, names = [], []
    _insert(connection, versions, iter(rows))
    _insert(connection, named, iter(names))
    _insert(connection, aliases, ({"task": t, "alias": a, "version": v} for (t, a), v in state.aliases.items()))
    _insert(connection, tags, ({"task": t, "version": n, "key": k, "value": v} for (t, n, k), v in state.tags.items()))
    _insert(connection, rules, ({**asdict(r), "protected": int(r.protected)} for r in state.rules.values()))
    _insert(connection, keys, (_key(key) for key in state.keys.values()))


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, object]]) -> None:
    values = list(rows)
    if values:
        connection.execute(table.insert(), values)


def _key(key: ApiKey) -> dict[str, object]:
    return {**asdict(key), "scopes": " ".join(key.scopes)}
