"""The strings of the packages' own source, as the syntax tree gives them: docstrings, messages, keys, SQL."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOLE = "…"


@dataclass(frozen=True)
class SourceString:
    """A string literal: its file below the root, its line, and its text, with `…` for what an f-string puts in."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.text.split())[:160]}"


@functools.cache
def source_strings(*packages: str) -> tuple[SourceString, ...]:
    return tuple(_read(packages))


def _read(packages: Sequence[str]) -> Iterator[SourceString]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for line, text in _strings(ast.parse(path.read_text("utf-8"))):
                yield SourceString(name, line, text)


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(tree, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in tree.values]
        yield tree.lineno, "".join(map(str, parts))
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.lineno, tree.value
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from _strings(child)
