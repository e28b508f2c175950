"""What each version of a split alias did: for the metrics, and for the rules by which a split ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serving.histogram import Buckets, Histogram
from serving.telemetry.top_labels import OTHER
from store.records.splits import AliasSplit

ROLLED_BACK, PROMOTED = "rolled_back", "promoted"
"""How a split ended by its rules."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
MOST_SERIES = 100
MOST_JUDGED = 32
Part = tuple[int, str]
"""A version, and the part of the split in which it was asked."""
SeriesName = tuple[str, str, str]
"""TASK@ALIAS, the version and its part."""


class Outcome(NamedTuple):
    """One answer of a version of a split: `agrees` says whether a shadow's label was the one that was sent."""

    at: float
    failed: bool
    seconds: float
    agrees: bool | None


Outcomes = Mapping[Part, tuple[Outcome, ...]]


@dataclass
class PartUsage:
    """Of one version in one part of a split."""

    requests: int = 0
    failed: int = 0
    agreed: int = 0
    disagreed: int = 0
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))

    def add(self, outcome: Outcome) -> None:
        self.requests += 1
        self.failed += outcome.failed
        self.agreed += outcome.agrees is True
        self.disagreed += outcome.agrees is False
        self.seconds.add(outcome.seconds)


class PartCounts(NamedTuple):
    """The same at one time."""

    requests: int
    failed: int
    agreed: int
    disagreed: int
    seconds: Buckets


class SplitCounters:
    """Written by the event loop alone, and bounded: the splits that came last are judged, the first ones have series.

    A split is known by its event: a new one of the same alias begins with no outcomes.
    """

    def __init__(self) -> None:
        self._series: dict[SeriesName, PartUsage] = {}
        self._judged: dict[str, tuple[AliasSplit, dict[Part, deque[Outcome]]]] = {}
        self.shadows_skipped = 0
        """Images that a shadow was not asked about, as too many waited."""
        self.ended = {ROLLED_BACK: 0, PROMOTED: 0}
        """Splits that this replica ended by their rules."""

    def count(self, split: AliasSplit, version: int, part: str, outcome: Outcome) -> None:
        name = (split.ref, str(version), part)
        usage = self._series.get(name)
        if usage is None:
            name = name if len(self._series) < MOST_SERIES else (OTHER, "", part)
            usage = self._series.setdefault(name, PartUsage())
        usage.add(outcome)
        if split.rules:
            self._keep(split, (version, part), outcome)

    def _keep(self, split: AliasSplit, part: Part, outcome: Outcome) -> None:
        known = self._judged.get(split.ref)
        if known is not None and known[0].number > split.number:  # of a request that was long on its way
            return
        if known is None or known[0].number < split.number:
            self._judged.pop(split.ref, None)
            known = self._judged[split.ref] = (split, {})
            if len(self._judged) > MOST_JUDGED:
                del self._judged[next(iter(self._judged))]
        known[1].setdefault(part, deque(maxlen=split.over)).append(outcome)

    def forget(self, split: AliasSplit) -> None:
        """Judge it no more: it has ended."""
        known = self._judged.get(split.ref)
        if known is not None and known[0].number <= split.number:
            known[1].clear()

    @property
    def judged(self) -> list[AliasSplit]:
        """The splits with rules of which something is known."""
        return [split for split, outcomes in self._judged.values() if outcomes]

    def outcomes(self) -> dict[AliasSplit, Outcomes]:
        """Return the last outcomes of each split with rules."""
        return {
            split: {part: tuple(each) for part, each in outcomes.items()}
            for split, outcomes in self._judged.values()
            if outcomes
        }

    def series(self) -> dict[SeriesName, PartCounts]:
        return {
            name: PartCounts(used.requests, used.failed, used.agreed, used.disagreed, used.seconds.buckets())
            for name, used in self._series.items()
        }
