"""The rows of one call of the kernel: what they are, what they must be, and the integers that the C interface reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.kernel.backbone import PackedBackbone
from serving.kernel.structs import EXIT_FIELDS
from serving.kernel.task import PackedTask
from store.errors import InvalidSettingError

NOWHERE = 1 << 40  # a depth that no row reaches: it stays in x


class KernelRow(NamedTuple):
    """A row of a batch: the task that adapts it or None, its places, and the tasks that leave it, with their logits.

    `exits` are (task, address of its logits), by depth; without any the row stays in x. `forms` and logits must
    stay in memory until the run is over.
    """

    task: PackedTask | None
    place: int
    image: int
    exits: Sequence[tuple[PackedTask, int]]


def check_rows(
    rows: Sequence[KernelRow], backbone: PackedBackbone, places: int, images: int | None, start: int, stop: int
) -> None:
    """Raise `InvalidSettingError` unless the kernel may run blocks start + 1 to stop of these rows."""
    if len({row.place for row in rows}) < len(rows):
        raise InvalidSettingError("two rows have one place: give each its own")
    before = NOWHERE
    for row in rows:
        if not 0 <= row.place < places or (images is not None and not 0 <= row.image < images):
            raise InvalidSettingError(f"row at place {row.place}, image {row.image}: there are {places} places")
        last = _last_exit(row, backbone, start, stop)
        if last > before:
            raise InvalidSettingError(f"a row of {last} blocks after one of {before}: give the deepest first")
        before = last
        if row.task is None:
            continue
        _check_engine(row.task, backbone)
        if min(stop, last) > row.task.depth:
            raise InvalidSettingError(f"block {stop} of a task of {row.task.depth} blocks: it has no forms there")


def _last_exit(row: KernelRow, backbone: PackedBackbone, start: int, stop: int) -> int:
    """Return the depth at which the last of a row's tasks leaves, once the order of all is right."""
    last = start + 1
    for task, logits in row.exits:
        _check_engine(task, backbone)
        if task.depth < last:
            raise InvalidSettingError(
                f"a task of {task.depth} blocks leaves after block {last - 1}: give them by depth"
            )
        if task.depth <= stop and not logits:
            raise InvalidSettingError(f"a task leaves after block {task.depth}: give its logits an address")
        last = task.depth
    return last if row.exits else NOWHERE


def _check_engine(task: PackedTask, backbone: PackedBackbone) -> None:
    if task.backbone is not backbone:
        raise InvalidSettingError("a task that was packed for another engine: prepare it with this one")


def by_work(rows: Sequence[KernelRow]) -> Sequence[KernelRow]:
    """Put the widest first among rows of one depth: tokens of two rows may share a product, which then makes both."""
    if len({_work(row) for row in rows}) == 1:
        return rows
    return sorted(rows, key=lambda row: (-row.exits[-1][0].depth if row.exits else -NOWHERE, -_work(row)))


def _work(row: KernelRow) -> int:
    return NOWHERE if row.task is None else row.task.work


def tables_of(rows: Sequence[KernelRow]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the integers of all `Row`s and of the `Exit`s to which they point."""
    fields: list[int] = []
    table: list[int] = []
    for row in rows:
        for task, logits in row.exits:
            fields += task.exit
            fields.append(logits)
    exits = np.array(fields, np.int64)
    at, width = exits.ctypes.data, exits.itemsize * EXIT_FIELDS
    for row in rows:
        table += (0 if row.task is None else row.task.forms_at, at, len(row.exits), row.place, row.image)
        at += width * len(row.exits)
    return np.array(table, np.int64), exits
