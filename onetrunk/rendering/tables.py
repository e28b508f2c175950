"""Rows of a listing as text: a table, JSON, CSV or Markdown."""

from __future__ import annotations

import csv
import io
import json
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

Record = Mapping[str, object]

GAP = "   "
NARROWEST = 8  # columns of text that a cell keeps, however narrow the screen


def to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_csv(rows: Sequence[Record]) -> str:
    """Write a header and one line a row; nothing at all for no rows."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows({key: "" if value is None else _plain(value) for key, value in row.items()} for row in rows)
    return out.getvalue().rstrip("\n")


def to_markdown(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    lines = [
        [heading(key) for key in rows[0]],
        ["---"] * len(rows[0]),
        *([cell(key, value) for key, value in row.items()] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_table(rows: Sequence[Record], *, width: int) -> str:
    """Lay rows out in columns, numbers to the right; what is wider than `width` is wrapped in its widest columns."""
    if not rows:
        return ""
    right = [any(_is_number(row[key]) for row in rows) for key in rows[0]]
    lines = [[heading(key) for key in rows[0]], *([cell(key, value) for key, value in row.items()] for row in rows)]
    lines = [[_printable(text) for text in line] for line in lines]
    widths = _fitting([max(map(_columns, texts)) for texts in zip(*lines, strict=True)], width)
    rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    head, *body = ["\n".join(_wrapped(line, widths, right)) for line in lines]
    return "\n".join([head, rule, *body])


def heading(key: str) -> str:
    return key.removesuffix("_nbytes").replace("nbytes", "size").replace("_", " ")


def cell(key: str, value: object) -> str:
    """Show a value for people: sizes with a unit, other floats with three digits, nothing as a dash."""
    if value is None or value == () or value == [] or value == {}:
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
    if isinstance(value, Mapping):
        return " ".join(f"{key}={one}" for key, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _fitting(widths: list[int], width: int) -> list[int]:
    """Narrow the widest columns until all fit or none can be narrowed further."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > width and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _wrapped(texts: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    cells = [
        [text] if len(text) <= width else textwrap.wrap(text, width) for text, width in zip(texts, widths, strict=True)
    ]
    for number in range(max(map(len, cells))):
        parts = [lines[number] if number < len(lines) else "" for lines in cells]
        yield GAP.join(map(_padded, parts, widths, right)).rstrip()


def _padded(text: str, width: int, right: bool) -> str:  # noqa: FBT001 - called by `map`
    space = " " * (width - _columns(text))
    return space + text if right else text + space


def _columns(text: str) -> int:
    """Return the columns that a terminal shows the text in."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
