"""Parse option values: durations, KEY=VALUE pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from store.errors import InvalidSettingError

DURATION = re.compile(r"([0-9]{1,9}(?:[.][0-9]{1,6})?)([smhd]?)")


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `1h` or `14d`."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise InvalidSettingError(f"duration {text[:40]!r} is not valid: write seconds, or 90s, 15m, 1h, 14d")
    return float(match[1]) * SECONDS[match[2]]


def parse_pairs(pairs: Sequence[str], *, option: str) -> dict[str, str]:
    """Read KEY=VALUE pairs."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or not value:
            raise InvalidSettingError(
                f"{option} {pair[:80]!r} is not KEY=VALUE: write for example {option} team=garden"
            )
        values[key] = value
    return values


def parse_range(text: str, *, option: str) -> int | tuple[int, int]:
    """Read `4`, or `1:4` as the least and the most."""
    least, colon, most = text.partition(":")
    if not (least.isdecimal() and (most.isdecimal() or not colon)):
        raise InvalidSettingError(f"{option} {text[:40]!r} is not valid: write a number, or LEAST:MOST such as 1:4")
    return (int(least), int(most)) if colon else int(least)
