"""A folder and every change and sync of it that strace recorded, in order: what the disk is told to keep."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from support.strace import ACKNOWLEDGEMENT

ROOT = 0
VOLATILE = ("-shm",)
CALLS = (
    *("openat", "open", "creat", "close", "lseek", "dup", "dup2", "dup3", "write", "writev", "pwrite64", "pwritev"),
    *("pwritev2", "sendfile", "copy_file_range", "fsync", "fdatasync", "truncate", "ftruncate", "fallocate"),
    *("link", "linkat", "symlink", "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir"),
)
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?: .*)?")
ENDINGS = re.compile(r"\d+ +(\+\+\+|---) .*")

Tree = dict[str, bytes | None]
"""Paths relative to the root and their bytes, None for a folder."""


@dataclass(frozen=True)
class Write:
    node: int
    at: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    node: int
    nbytes: int


@dataclass(frozen=True)
class Grow:
    """A size that reached the disk without its bytes."""

    node: int
    nbytes: int


@dataclass(frozen=True)
class Relink:
    """Names that change in one step, each as folder, name and its new node; None where the name is removed."""

    names: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Sync:
    node: int


Op = Write | Resize | Grow | Relink | Sync


class Disk:
    """A folder at the start, and all changes in it since, in order.

    `acknowledged` is the number of operations before the last process acknowledged its change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(ROOT + 1)
        self._files: dict[int, bytes] = {}
        self._names: defaultdict[int, dict[str, int]] = defaultdict(dict, {ROOT: {}})
        self.ops: list[Op] = []
        self.acknowledged: int | None = None
        for path in sorted(folder.rglob("*")):
            node = next(self._numbers)
            self._names[self._find(path.parent)][path.name] = node
            if path.is_dir():
                self._names[node] = {}
            else:
                self._files[node] = path.read_bytes()
        self._then = {node: dict(names) for node, names in self._names.items()}

    def replay(self, trace: Path) -> None:
        """Add what one process did, as strace wrote it down with `-f -xx`."""
        opened: dict[int, _Opened] = {}
        self.acknowledged = None
        for line in trace.read_text().splitlines():
            match = LINE.fullmatch(line)
            if match is None:
                assert ENDINGS.fullmatch(line) or line.endswith(" = ?"), f"strace wrote {line[:200]}"
            elif ACKNOWLEDGEMENT in line:
                self.acknowledged = len(self.ops)
            elif int(match[4]) >= 0:
                self._add(match[2], match[3].split(", "), int(match[4]), opened)

    def tree(self, ops: Sequence[Op]) -> Tree:
        """Return the folder as the start and these of the operations leave it."""
        names = {node: dict(inside) for node, inside in self._then.items()}
        files = {node: bytearray(data) for node, data in self._files.items()}
        for op in ops:
            if isinstance(op, Relink):
                for folder, name, node in op.names:
                    inside = names.setdefault(folder, {})
                    inside.pop(name, None) if node is None else inside.update({name: node})
            elif not isinstance(op, Sync):
                _fill(files.setdefault(op.node, bytearray()), op)
        return dict(self._list(names, files))

    def _list(
        self, names: dict[int, dict[str, int]], files: dict[int, bytearray], node: int = ROOT, path: str = ""
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, inner in sorted(names.get(node, {}).items()):
            if inner in self._names:
                yield path + name, None
                yield from self._list(names, files, inner, f"{path}{name}/")
            elif not name.endswith(VOLATILE):
                yield path + name, bytes(files.get(inner, b""))

    def _add(self, call: str, arguments: list[str], result: int, opened: dict[int, _Opened]) -> None:
        if call in ("openat", "open", "creat"):
            self._open(_paths(arguments)[0], _flags(call, arguments), result, opened)
        elif call in ("mkdir", "mkdirat"):
            self._make_folder(_paths(arguments)[0])
        elif call in ("unlink", "unlinkat", "rmdir"):
            self._relink(_paths(arguments)[0], None)
        elif call in ("link", "linkat"):
            source, target = _paths(arguments)
            self._relink(target, self._find(source))
        elif call.startswith("rename"):
            self._rename(*_paths(arguments))
        elif call != "close" and (file := opened.get(int(arguments[0]))) is not None:
            self._change(call, file, arguments, result)

    def _open(self, path: Path, flags: str, descriptor: int, opened: dict[int, _Opened]) -> None:
        opened.pop(descriptor, None)
        if not path.is_relative_to(self._folder):
            return
        if "O_CREAT" in flags and path.name not in self._names[self._find(path.parent)]:
            self._relink(path, next(self._numbers))
        node = self._find(path)
        opened[descriptor] = _Opened(node, append="O_APPEND" in flags)
        if "O_TRUNC" in flags:
            self.ops.append(Resize(node, 0))

    def _change(self, call: str, file: _Opened, arguments: list[str], result: int) -> None:
        if call in ("fsync", "fdatasync"):
            self.ops.append(Sync(file.node))
        elif call == "lseek":
            file.at = result
        elif call == "write":
            assert not file.append, "appending is not modelled"
            self.ops.append(Write(file.node, file.at, _bytes(arguments[1])[:result]))
            file.at += result
        elif call == "pwrite64":
            self.ops.append(Write(file.node, int(arguments[3]), _bytes(arguments[1])[:result]))
        elif call == "ftruncate":
            self.ops.append(Resize(file.node, int(arguments[1])))
        else:
            raise AssertionError(f"{call} is not modelled")

    def _make_folder(self, path: Path) -> None:
        node = next(self._numbers)
        self._relink(path, node)
        self._names[node] = {}

    def _rename(self, source: Path, target: Path) -> None:
        node = self._find(source)
        names = ((self._find(target.parent), target.name, node), (self._find(source.parent), source.name, None))
        self.ops.append(Relink(names))
        self._apply(names)

    def _relink(self, path: Path, node: int | None) -> None:
        if path.is_relative_to(self._folder):
            names = ((self._find(path.parent), path.name, node),)
            self.ops.append(Relink(names))
            self._apply(names)

    def _apply(self, names: tuple[tuple[int, str, int | None], ...]) -> None:
        for folder, name, node in names:
            if node is None:
                del self._names[folder][name]
            else:
                self._names[folder][name] = node

    def _find(self, path: Path) -> int:
        node = ROOT
        for part in path.relative_to(self._folder).parts:
            node = self._names[node][part]
        return node


@dataclass
class _Opened:
    node: int
    append: bool
    at: int = 0


def _fill(file: bytearray, op: Write | Resize | Grow) -> None:
    if isinstance(op, Write):
        file.extend(bytes(max(0, op.at + len(op.data) - len(file))))
        file[op.at : op.at + len(op.data)] = op.data
        return
    file.extend(bytes(max(0, op.nbytes - len(file))))
    if isinstance(op, Resize):
        del file[op.nbytes :]


def _bytes(quoted: str) -> bytes:
    assert quoted.endswith('"'), f"strace cut {quoted[:40]} short"
    return bytes.fromhex(quoted[1:-1].replace("\\x", ""))


def _paths(arguments: list[str]) -> list[Path]:
    """Return the paths among a call's arguments, each after the folder that it is relative to where there is one."""
    paths = []
    for before, argument in zip(["AT_FDCWD", *arguments], arguments, strict=False):
        if argument.startswith('"'):
            path = Path(os.fsdecode(_bytes(argument)))
            assert path.is_absolute() or before == "AT_FDCWD", f"{path} lies in descriptor {before}: not modelled"
            paths.append(Path(os.path.normpath(path)))
    return paths


def _flags(call: str, arguments: list[str]) -> str:
    return "O_CREAT|O_TRUNC" if call == "creat" else arguments[2 if call == "openat" else 1]
