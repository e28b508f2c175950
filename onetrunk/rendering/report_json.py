"""A report as JSON text: indented, each row of a table on a line of its own, so that it is quick and easy to diff."""

from __future__ import annotations

import json
from collections.abc import Mapping

ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def to_json_lines(value: Mapping[str, object]) -> str:
    """Encode an object; a list of objects in it takes a line for each of them."""
    items = (f"  {ENCODER.encode(key)}: {_item(item)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + "\n}"


def _item(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return "[\n" + ",\n".join(f"    {ENCODER.encode(row)}" for row in value) + "\n  ]"
    if isinstance(value, Mapping):
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", "\n  ")
    return ENCODER.encode(value)
