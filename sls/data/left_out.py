"""What a source holds that is not used, counted by reason."""

from __future__ import annotations

from collections import defaultdict

from sls.data.image_source import place

SHOWN = 3


class LeftOut:
    """Count what is left out; `notes` has one line for each reason, with the first names."""

    def __init__(self) -> None:
        self._by_reason: dict[str, list[str]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, reason: str, what: object) -> None:
        self._counts[reason] += 1
        if len(self._by_reason[reason]) < SHOWN:
            self._by_reason[reason].append(place(what))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"left out, {reason}: {count:,} ({listed(self._by_reason[reason], count)})"
            for reason, count in self._counts.items()
        )


def counted(count: int, noun: str) -> str:
    """Return the count with its noun: `1 image`, `2 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed(names: list[str], count: int) -> str:
    """Join the first names, and say whether there are more."""
    return ", ".join(names) + (", …" if count > len(names) else "")
