"""All tasks that a visitor may see, filtered and sorted: read a page at a time, up to a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.console.state import Visit
from store.errors import FormatError
from store.records.bounds import MAX_PAGE
from store.records.geometry import Geometry
from store.records.listing import Search, VersionListing
from store.records.manifest import Manifest

MOST_TASKS = 5000
"""Tasks that one page looks at: those that come first by name. A narrower search finds the others."""

SORTS: Mapping[str, Callable[[VersionListing], tuple[object, ...]]] = {
    "task": lambda row: (row.task,),
    "depth": lambda row: (row.depth, row.task),
    "size": lambda row: (row.nbytes, row.task),
    "classes": lambda row: (row.classes, row.task),
    "method": lambda row: (row.method, row.task),
    "published": lambda row: (row.published_at, row.task),
}


@dataclass(frozen=True)
class Tasks:
    """One version of each task that matches; `is_complete` is false where there are more than were looked at."""

    rows: tuple[VersionListing, ...]
    is_complete: bool


def search_of(visit: Visit) -> Search:
    """Return the filters in the query; a tenant's key searches its own tasks whatever the query says."""
    tag = visit.text("tag")
    if tag is not None and "=" not in tag:
        raise FormatError(f"tag {tag[:80]!r} is not KEY=VALUE: write for example team=vision")
    return Search(
        text=visit.text("q"),
        tags={} if tag is None else {tag.partition("=")[0]: tag.partition("=")[2]},
        backbone=visit.text("backbone"),
        method=visit.text("method"),
        alias=visit.text("alias"),
        tenant=visit.text("tenant") if visit.sees_all else None,
    )


def read_tasks(visit: Visit, search: Search) -> Tasks:
    rows: list[VersionListing] = []
    after: str | None = None
    while len(rows) < MOST_TASKS:
        page = visit.store.search(search, after=after, limit=MAX_PAGE)
        rows += page.rows
        after = page.next
        if after is None:
            break
    return Tasks(tuple(rows), after is None)


def adapted_blocks(visit: Visit, manifest: Manifest) -> list[int]:
    """Return the blocks that have an adapted module, counted from 1; only in stages the backbone's record is needed."""
    modules = manifest.adapter.modules
    geometry: Geometry | None = Geometry.of({})
    if any(module.startswith("layers.") for module in modules):
        records = (record for record in visit.store.backbones() if record.id.fingerprint == manifest.backbone)
        geometry = next((record.geometry for record in records), None)
    if geometry is None:
        return []
    return sorted({geometry.number(module) for module in modules} - {0})
