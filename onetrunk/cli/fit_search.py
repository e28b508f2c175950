"""`--search`: which settings are tried for each task, as a grid of options and their values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from store.errors import InvalidSettingError

CANDIDATES: Mapping[str, Sequence[str]] = {
    "lr": ("0.001", "0.003", "0.01"),
    "rank": ("4", "8", "16"),
    "method": ("lora", "adaptformer", "repadapter"),
}
"""What is tried of an option where no values are given."""
MOST = 243
NOT_OF_THE_RECIPE = ("backbone", "limit", "seed", "data-root", "allow-duplicates", "parent", "alias", "place", "config")


def parse_search(text: str | None) -> list[dict[str, object]]:
    """Return the settings of `lr,rank` or `lr=1e-3:1e-2,rank=4:8`, each with each; [] for none."""
    if text is None:
        return []
    values: dict[str, Sequence[str]] = {}
    for part in text.split(","):
        name, equals, listed = part.strip().partition("=")
        name = name.replace("_", "-")
        if name in values or name in NOT_OF_THE_RECIPE or not name:
            raise InvalidSettingError(
                f"--search {part.strip()!r}: name each option of the recipe once, such as lr,rank"
            )
        if not equals and name not in CANDIDATES:
            raise InvalidSettingError(
                f"--search {name}: give its values, as {name}=A:B; {', '.join(CANDIDATES)} have some of their own"
            )
        values[name] = [one.strip() for one in listed.split(":")] if equals else CANDIDATES[name]
        if not all(values[name]) or len(set(values[name])) < len(values[name]):
            raise InvalidSettingError(f"--search {part.strip()!r}: give different values, as {name}=A:B")
    count = math.prod(map(len, values.values()))
    if count > MOST:
        raise InvalidSettingError(f"--search has {count} settings for each task, at most {MOST}: try fewer values")
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


def title_of(setting: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())
