"""Bytes by tenant, method, backbone, depth and dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from store.accounting.ownership import Ownership, Place, Totals
from store.accounting.rows import GroupReport, VersionReport

GROUPINGS: Mapping[str, Callable[[VersionReport], str]] = {
    "tenant": lambda row: row.tenant,
    "method": lambda row: row.method,
    "backbone": lambda row: row.backbone,
    "depth": lambda row: f"{row.depth} of {row.blocks}",
    "dtype": lambda row: row.dtype,
}


def groups_of(rows: Sequence[VersionReport], owned: Ownership) -> Iterator[GroupReport]:
    """Yield a row for each group of each grouping, by name; depths by their number."""
    for by, name_of in GROUPINGS.items():
        members: dict[str, list[Place]] = {}
        for row in rows:
            members.setdefault(name_of(row), []).append((row.task, row.version))
        totals = owned.totals({place: name for name, places in members.items() for place in places})
        names = sorted(members, key=lambda name: (int(name.partition(" ")[0]), name) if by == "depth" else (0, name))
        for name in names:
            yield _group(by, name, members[name], totals[name])


def _group(by: str, name: str, places: Sequence[Place], totals: Totals) -> GroupReport:
    return GroupReport(
        by=by,
        name=name,
        tasks=len({task for task, _ in places}),
        versions=len(places),
        nbytes=totals.nbytes,
        unique_nbytes=totals.unique_nbytes,
        shared_nbytes=totals.nbytes - totals.unique_nbytes,
    )
