"""A disk that loses power: what may be left of a folder when nothing is durable before its fsync.

The file system is the worst that POSIX allows: a file's bytes and size are durable once the file is synced, a name
once its folder is; until then each may or may not reach the disk, in any order and torn between sectors. Only a
rename is one step, as on every journalling file system.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from support.disk_model import Grow, Op, Relink, Sync, Tree, Write

SECTOR = 512


@dataclass(frozen=True)
class Survivor:
    """The operations that are on the disk; `kind` describes which those are."""

    kind: str
    ops: tuple[Op, ...]


def survivors(ops: Sequence[Op], *, seed: str, draws: int) -> Iterator[Survivor]:
    """Yield what may be on the disk after these operations: the worst cases, and random ones."""
    durable = _durable(ops)
    chances = [random.Random(f"{seed} {len(ops)} {draw}") for draw in range(draws)]
    chosen = {f"draw {draw}": partial(_torn, chance=chance) for draw, chance in enumerate(chances)}
    for kind, survive in (WORST | chosen).items():
        left = (part for op, safe in zip(ops, durable, strict=True) for part in ((op,) if safe else survive(op)))
        yield Survivor(kind, tuple(left))


def materialise(tree: Tree, folder: Path) -> None:
    folder.mkdir()
    for path, data in tree.items():
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)


def _durable(ops: Sequence[Op]) -> list[bool]:
    """Say of each operation whether a later sync of its file, or of its folders, makes it certain."""
    synced: set[int] = set()
    safe = []
    for op in reversed(ops):
        if isinstance(op, Sync):
            synced.add(op.node)
        nodes = {folder for folder, _, _ in op.names} if isinstance(op, Relink) else {op.node}
        safe.append(nodes <= synced)
    return safe[::-1]


def _grown(op: Op) -> tuple[Op, ...]:
    return (Grow(op.node, op.at + len(op.data)),) if isinstance(op, Write) else (op,)


def _torn(op: Op, chance: random.Random) -> tuple[Op, ...]:
    if not isinstance(op, Write) or chance.random() < 0.7:
        return (op,) if chance.random() < 0.5 else ()
    sectors = range(0, len(op.data), SECTOR)
    return tuple(replace(op, at=op.at + at, data=op.data[at : at + SECTOR]) for at in sectors if chance.random() < 0.5)


WORST: dict[str, Callable[[Op], tuple[Op, ...]]] = {
    "nothing that was not synced": lambda _: (),
    "everything": lambda op: (op,),
    "names without bytes": lambda op: (op,) if isinstance(op, Relink) else (),
    "bytes without names": lambda op: () if isinstance(op, Relink) else (op,),
    "names and sizes without bytes": _grown,
}
