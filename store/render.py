"""Rows of a listing as a table for people, or as JSON, CSV or Markdown for what reads them next."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Row = Mapping[str, object]


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_csv(rows: Sequence[Row]) -> str:
    """Write a header and one line a row; nothing at all for no rows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")


def to_markdown(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [
        [heading(key) for key in rows[0]],
        ["---"] * len(rows[0]),
        *([cell(key, value) for key, value in row.items()] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def print_table(rows: Sequence[Row], console: Console, *, title: str | None = None) -> None:
    """Print numbers to the right and byte counts with a unit."""
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    for key, value in (rows[0] if rows else {}).items():
        table.add_column(heading(key), justify="right" if _is_number(value) else "left")
    for row in rows:
        table.add_row(*(cell(key, value) for key, value in row.items()))
    console.print(table)


def heading(key: str) -> str:
    return key.removesuffix("_nbytes").replace("nbytes", "size").replace("_", " ")


def cell(key: str, value: object) -> str:
    """Show a value as people read it: sizes with a unit, other floats with three digits, nothing as a dash."""
    if value is None:
        return "–"
    if isinstance(value, int) and key.endswith("nbytes"):
        return size(value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return _plain(value)


def size(nbytes: int) -> str:
    """Show bytes with an SI unit: 1 kB is 1000 B."""
    if nbytes < 1000:
        return f"{nbytes} B"
    scaled, units = nbytes / 1000, ["kB", "MB", "GB", "TB"]
    while scaled >= 999.5 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    return f"{scaled:.3g} {units[0]}"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
