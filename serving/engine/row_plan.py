"""Which rows a batch has at each block: tasks of one image share a row for as long as none of them is adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class EngineTask(Protocol):
    """A task as an engine has prepared it: what the plan of a batch and the answers need of it."""

    @property
    def depth(self) -> int: ...
    @property
    def first_block(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class EngineRow:
    """One image in the blocks; `task` is None while no task adapts it; `members` are the tasks that share the row."""

    image: int
    task: EngineTask | None
    members: tuple[int, ...]
    depth: int
    """After how many blocks the last of the tasks leaves it."""

    @property
    def key(self) -> tuple[int, int | None]:
        return self.image, None if self.task is None else id(self.task)


def rows_at(block: int, tasks: Sequence[EngineTask], image_of: Sequence[int]) -> list[EngineRow]:
    """Return the rows that run at a block, counted from 1, deepest first; then those of like forms together."""
    members: dict[tuple[int, int | None], list[int]] = {}
    first: dict[int, int] = {}
    for index, task in enumerate(tasks):
        first.setdefault(id(task), index)
        if task.depth >= block:
            adapted = id(task) if task.first_block <= block else None
            members.setdefault((image_of[index], adapted), []).append(index)
    rows = [
        EngineRow(
            image,
            None if adapted is None else tasks[sharing[0]],
            tuple(sharing),
            max([tasks[member].depth for member in sharing]),
        )
        for (image, adapted), sharing in members.items()
    ]

    def order(row: EngineRow) -> tuple[int, int, int]:
        return (-row.depth, 0, -1) if row.task is None else (-row.depth, row.task.rank, first[id(row.task)])

    return sorted(rows, key=order)


def rows_by_block(tasks: Sequence[EngineTask], image_of: Sequence[int]) -> tuple[int, ...]:
    """Return how many rows run in each block until the last of the tasks has left."""
    if len(tasks) == 1:
        return (1,) * tasks[0].depth
    changes, rows = events(tasks), [0]
    for block in range(1, max(task.depth for task in tasks) + 1):
        rows.append(len(rows_at(block, tasks, image_of)) if block in changes else rows[-1])
    return tuple(rows[1:])


def events(tasks: Sequence[EngineTask]) -> frozenset[int]:
    """Return the blocks at which rows are split or leave."""
    return splits(tasks) | {task.depth + 1 for task in tasks}


def splits(tasks: Sequence[EngineTask]) -> frozenset[int]:
    """Return the blocks at which rows are split: where a task that shared a row begins to be adapted."""
    return frozenset({1, *(task.first_block for task in tasks)})
