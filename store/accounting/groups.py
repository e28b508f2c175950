"""Bytes by tenant, method, backbone, depth and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter

from store.accounting.ownership import Ownership, Place
from store.accounting.rows import GroupReport, VersionReport

GROUPINGS = ("tenant", "method", "backbone", "depth", "dtype")
CELL = attrgetter("tenant", "method", "backbone", "depth", "dtype", "blocks")
Cell = tuple[str, str, str, int, str, int]
"""What versions must have in common to be in the same groups; there are far fewer of these than versions."""


def groups_of(rows: Sequence[VersionReport], owned: Ownership) -> Iterator[GroupReport]:
    """Yield a row for each group of each grouping, by name; depths by their number."""
    cell_of: dict[Place, Cell] = {(row.task, row.version): CELL(row) for row in rows}
    cells = owned.cells(cell_of)
    tasks: dict[Cell, set[str]] = {cell: set() for cell in cells.own}
    versions = dict.fromkeys(cells.own, 0)
    for (task, _), cell in cell_of.items():
        tasks[cell].add(task)
        versions[cell] += 1
    for number, by in enumerate(GROUPINGS):
        name_of = {cell: f"{cell[3]} of {cell[5]}" if by == "depth" else str(cell[number]) for cell in cells.own}
        totals = cells.totals(name_of)
        for name in sorted(
            totals, key=lambda name: (int(name.partition(" ")[0]), name) if by == "depth" else (0, name)
        ):
            members = _members(name_of, name)
            yield GroupReport(
                by=by,
                name=name,
                tasks=len(set().union(*(tasks[cell] for cell in members))),
                versions=sum(versions[cell] for cell in members),
                nbytes=totals[name].nbytes,
                unique_nbytes=totals[name].unique_nbytes,
                shared_nbytes=totals[name].nbytes - totals[name].unique_nbytes,
            )


def _members(name_of: Mapping[Cell, str], name: str) -> list[Cell]:
    return [cell for cell, named in name_of.items() if named == name]
