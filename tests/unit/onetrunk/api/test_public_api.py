"""What `import onetrunk` offers: lazy, typed, and listed, so that a change of it shows in a diff."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.api_listing import listing

import onetrunk

SOURCE = Path(onetrunk.__file__)
LISTING = SOURCE.parents[1] / "docs" / "api.txt"
BUDGET_US = 5_000


def type_checking_block() -> dict[str, str]:
    """Return the module of each name that type checkers are told of."""
    (block,) = [node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_all_is_sorted_and_names_what_the_table_and_the_type_checkers_block_name():
    told = {name: f"{module}.{name}" if name == "errors" else module for name, module in type_checking_block().items()}
    assert onetrunk.__all__ == sorted(onetrunk._MODULES) == sorted(told)
    assert told == onetrunk._MODULES
    assert dir(onetrunk) == onetrunk.__all__


@pytest.mark.parametrize("name", onetrunk.__all__)
def test_each_name_is_there_and_is_called_so(name):
    value = getattr(onetrunk, name)
    assert getattr(value, "__name__", "").split(".")[-1] == name


def test_a_name_that_is_not_offered_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'onetrunk' has no attribute 'Shelf'"):
        onetrunk.Shelf  # noqa: B018


def test_importing_loads_no_other_module_and_takes_less_than_5_ms():
    code = "import sys; before = set(sys.modules); import onetrunk; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["onetrunk"]
    fastest = min(import_time_us() for _ in range(20))
    assert fastest < BUDGET_US


def import_time_us() -> int:
    command = [sys.executable, "-X", "importtime", "-c", "import onetrunk"]
    last = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]
    return int(last.split("|")[1])


def test_the_committed_listing_is_the_api():
    """ONETRUNK_SNAPSHOTS=write renews it."""
    if os.environ.get("ONETRUNK_SNAPSHOTS") == "write":
        LISTING.write_text(listing(), "utf-8")
    assert LISTING.read_text("utf-8") == listing()
