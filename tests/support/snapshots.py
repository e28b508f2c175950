"""Texts that users see, kept as files: a change of one shows in a diff, and is taken over on purpose.

`ONETRUNK_SNAPSHOTS=write pytest tests/unit/onetrunk/test_snapshots.py` renews them.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "unit" / "onetrunk" / "snapshots"


def check_snapshot(name: str, text: str) -> None:
    """Fail with a diff unless the text is what the file of this name holds."""
    path = FOLDER / name
    if os.environ.get("ONETRUNK_SNAPSHOTS") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    kept = path.read_text("utf-8") if path.exists() else ""
    diff = difflib.unified_diff(kept.splitlines(), text.splitlines(), f"snapshots/{name}", "now", lineterm="")
    if kept != text:
        pytest.fail("\n".join([*diff, "renew it with ONETRUNK_SNAPSHOTS=write if it should be so"]), pytrace=False)


def masked(text: str, **paths: Path) -> str:
    """Put names for the paths, and HEX for digests and other long hex numbers."""
    for name, path in sorted(paths.items(), key=lambda item: -len(str(item[1]))):
        text = text.replace(str(path), name.upper())
    return re.sub(r"\b[0-9a-f]{16,64}\b", "HEX", text)
