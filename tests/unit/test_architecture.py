"""What docs/architecture.md says of the path of an image holds: few files, few lines, always downwards."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILES, MAX_LINES = 7, 700


def path_of_an_image() -> list[str]:
    """The files of the first table in "The life of a request", in its order."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## The life of a request\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(serving/[\w/]+\.py)` \|", section, re.MULTILINE)


def imported_files(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    return {f"{module.replace('.', '/')}.py" for module in modules}


def test_one_image_passes_through_seven_files_of_700_lines_in_all() -> None:
    files = path_of_an_image()
    assert 0 < len(files) <= MAX_FILES
    lines = {file: len((ROOT / file).read_text("utf-8").splitlines()) for file in files}
    assert sum(lines.values()) <= MAX_LINES, lines


@pytest.mark.parametrize("file", path_of_an_image())
def test_a_file_on_the_path_imports_only_files_below_it(file: str) -> None:
    files = path_of_an_image()
    above = files[: files.index(file) + 1]
    assert imported_files(file).isdisjoint(above)
