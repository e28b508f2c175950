"""What a task, an alias and a backbone may be called."""

from __future__ import annotations

import re

from store.errors import InvalidNameError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")
BACKBONE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}")


def check_name(name: str, kind: str) -> str:
    """Return the name, or raise `InvalidNameError`."""
    if not NAME.fullmatch(name) or ".." in name:
        raise InvalidNameError(
            f"{kind} name {name[:80]!r} is not valid: use letters, digits, '.', '_' and '-', "
            "at most 128, with at most one '/' between two such parts"
        )
    return name
