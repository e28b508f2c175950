"""Compare the tables of the catalogue with the state that the history replays to, and fill them from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TypeVar

import sqlalchemy as sa

from store.adapters.manifests import entry_of
from store.backends.blobs import Blobs
from store.catalogue.api_keys import row_of_key
from store.catalogue.replay import CatalogueState, PublishedVersion
from store.catalogue.schema import aliases, backbones, keys, meta, rules, tags, tasks, version_blobs, versions
from store.catalogue.versions import blob_rows, row_of
from store.errors import FormatError, IntegrityError
from store.queries.reader import CATALOGUE_FORMAT, Queries
from store.queries.references import read_backbone_record, read_manifest
from store.queries.sql import UNREADABLE
from store.records.blob import Blob
from store.records.events import BackboneRow
from store.records.listing import CatalogueEntry, VersionRow
from store.records.refs import tenant_of

CHUNK = 1000  # rows inserted at a time

K = TypeVar("K")
V = TypeVar("V")

REMEDY = (
    "it was changed behind the history; restore the catalogue from a copy, or move it "
    "away and rebuild it with `rebuild(url)`"
)


def differences(state: CatalogueState, queries: Queries) -> Iterator[tuple[str, str]]:
    """Yield what differs between the tables and the state, as pairs of owner and problem."""
    yield from _compare_versions(state, queries)
    yield from _compare("next version", queries.next_versions(), state.next_versions, str)
    yield from _compare("tenant of", queries.tenants(), {task: tenant_of(task) for task in state.next_versions}, str)
    aliases_now = {(task, alias): version for task, alias, version in queries.all_aliases()}
    yield from _compare("alias", aliases_now, state.aliases, _at)
    tags_now = {(task, version, key): value for task, version, key, value in queries.all_tags()}
    yield from _compare("tag", tags_now, state.tags, lambda key: f"{key[0]}:{key[1]} {key[2]}")
    rules_now = {(rule.task, rule.alias): rule for rule in queries.rules()}
    yield from _compare("rule", rules_now, state.rules, _at)
    yield from _compare("backbone", {row.fingerprint: row for row in queries.backbones()}, state.backbones, str)
    yield from _compare("API key", {key.id: key for key in queries.api_keys()}, state.keys, str)


def _compare_versions(state: CatalogueState, queries: Queries) -> Iterator[tuple[str, str]]:
    """Compare task by task: a store may hold more versions than memory should hold twice."""
    expected: defaultdict[str, dict[str, PublishedVersion]] = defaultdict(dict)
    for (task, number), published in state.versions.items():
        expected[task][f"{task}:{number}"] = published
    for task in sorted({*expected, *queries.all_tasks()}):
        table = {
            f"{task}:{row.version}": PublishedVersion(
                row.manifest.sha256, row.manifest.nbytes, row.backbone, row.published_at, row.removed_at
            )
            for row in queries.versions(task, removed=True)
        }
        yield from _compare("version", table, expected[task], str)


def _at(key: tuple[object, object]) -> str:
    return f"{key[0]}@{key[1]}"


def _compare(
    kind: str, table: Mapping[K, V], state: Mapping[K, V], name: Callable[[K], str]
) -> Iterator[tuple[str, str]]:
    for key in sorted(table.keys() | state.keys(), key=str):
        if table.get(key) != state.get(key):
            owner = name(key)
            yield owner, f"{kind} {owner} is {table.get(key)}, the history says {state.get(key)}: {REMEDY}"


class ManifestReader:
    """Read what the history does not record: manifests and backbone records. `problems` has a line for each that
    cannot be read; its version or backbone keeps its name and digest.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.problems: list[str] = []

    def version(self, task: str, number: int, published: PublishedVersion) -> CatalogueEntry:
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


def fill(connection: sa.Connection, state: CatalogueState, manifests: ManifestReader) -> None:
    """Write the whole state into empty tables."""
    connection.execute(meta.insert().values(key="format", value=str(CATALOGUE_FORMAT)))
    _insert(connection, backbones, (manifests.backbone(row) for row in state.backbones.values()))
    _insert(
        connection,
        tasks,
        ({"task": t, "tenant": tenant_of(t), "next_version": n} for t, n in state.next_versions.items()),
    )
    rows: list[dict[str, object]] = []
    blobs: list[dict[str, object]] = []
    for (task, version), published in state.versions.items():
        entry = manifests.version(task, version, published)
        recorded = {"backbone": published.backbone, "removed_at": published.removed_at}
        rows.append({"task": task, "version": version, **row_of(entry, published.published_at), **recorded})
        blobs += blob_rows(task, version, entry)
        if len(rows) == CHUNK:
            _insert(connection, versions, iter(rows))
            _insert(connection, version_blobs, iter(blobs))
            rows, blobs = [], []
    _insert(connection, versions, iter(rows))
    _insert(connection, version_blobs, iter(blobs))
    _insert(connection, aliases, ({"task": t, "alias": a, "version": v} for (t, a), v in state.aliases.items()))
    _insert(connection, tags, ({"task": t, "version": n, "key": k, "value": v} for (t, n, k), v in state.tags.items()))
    _insert(connection, rules, ({**asdict(r), "protected": int(r.protected)} for r in state.rules.values()))
    _insert(connection, keys, (row_of_key(key) for key in state.keys.values()))


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterator[dict[str, object]]) -> None:
    values = list(rows)
    if values:
        connection.execute(table.insert(), values)
