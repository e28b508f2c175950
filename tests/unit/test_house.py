"""The sizes that keep the code readable one screen at a time; where an import may go is for import-linter to say."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

import store

ROOT = Path(store.__file__).parents[1]
PACKAGES = ("onetrunk", "store", "serving", "sls")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYTHING = [
    *SOURCES,
    ROOT / "hatch_build.py",
    *(path for folder in ("tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")),
]
PAGES = (".", "changes", "deploy", "docs", "docs/adr", "examples")
MARK = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
MOST_LINES_A_FILE, MOST_LINES_A_FUNCTION = 300, 50


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def functions(path: Path) -> list[tuple[str, int]]:
    """Return each function with its lines, the docstring not counted."""
    nodes = [
        n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", _lines(node)) for node in nodes]


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_300_lines_and_no_function_than_50(path):
    assert lines_of(path) <= MOST_LINES_A_FILE
    assert [(name, lines) for name, lines in functions(path) if lines > MOST_LINES_A_FUNCTION] == []


def test_half_of_the_files_have_at_most_120_lines_and_half_of_the_functions_at_most_8():
    assert statistics.median(map(lines_of, filter(lines_of, SOURCES))) <= 120
    assert statistics.median(lines for path in SOURCES for _, lines in functions(path)) <= 8


def test_only_the_builds_hook_stands_at_the_top_beside_the_packages():
    assert [path.name for path in ROOT.glob("*.py")] == ["hatch_build.py"]


def test_no_page_or_setting_has_the_marks_of_an_unfinished_merge():
    pages = [path for folder in PAGES for kind in ("md", "toml", "txt") for path in (ROOT / folder).glob(f"*.{kind}")]
    assert len(pages) > len(PAGES)
    assert [path for path in pages if MARK.search(path.read_text("utf-8"))] == []


def test_make_clean_removes_nothing_that_is_committed():
    said = subprocess.run(["make", "--dry-run", "clean"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    removed = said.removeprefix("rm -rf ").split()
    assert ".venv" in removed
    command = ["git", "ls-files", "--", *removed]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == ""
    assert subprocess.run([*command, "Makefile"], cwd=ROOT, capture_output=True, text=True, check=True).stdout != ""
