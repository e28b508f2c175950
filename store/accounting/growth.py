"""What the history says about growth: tasks, versions and bytes, period by period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from store.accounting.ownership import Place
from store.accounting.rows import GrowthPoint

PERIODS = {"second": 19, "minute": 16, "hour": 13, "day": 10, "month": 7}
"""Period -> how many characters of a time (2026-03-01T12:30:00.000+00:00) name it."""
FILL = "0000-01-01T00:00:00+00:00"
LONGEST_S = {"second": 120, "minute": 2 * 3600, "hour": 3 * 86400, "day": 180 * 86400}
"""The period is the first in which the whole history takes at most so many seconds, and otherwise the month."""

ENTERS, LEAVES = frozenset({"publish", "restore", "backbone"}), frozenset({"rm", "backbone-rm"})


class Moment(NamedTuple):
    """An event of the history as growth needs it; `version` is None for a backbone."""

    at: str
    action: str
    subject: str
    version: int | None


@dataclass
class _State:
    """What is there after the events so far, with how many references hold each blob."""

    blobs_of: Mapping[Place | str, Sequence[str]]
    sizes: Mapping[str, int]
    there: set[Place | str] = field(default_factory=set)
    versions: int = 0
    versions_of: Counter[str] = field(default_factory=Counter)
    holds: dict[str, int] = field(default_factory=dict)
    unsized: int = 0
    live_nbytes: int = 0
    added_nbytes: int = 0

    def add(self, owner: Place | str) -> None:
        holds, added = self.holds, 0
        for digest in self.blobs_of.get(owner, ()):
            held = holds.get(digest, 0)
            holds[digest] = held + 1
            if not held:
                added += self.sizes[digest]
        self.live_nbytes += added
        self.added_nbytes += added

    def drop(self, owner: Place | str) -> None:
        for digest in self.blobs_of.get(owner, ()):
            self.holds[digest] -= 1
            if not self.holds[digest]:
                self.live_nbytes -= self.sizes[digest]

    def apply(self, moment: Moment) -> None:
        owner = moment.subject if moment.version is None else (moment.subject, moment.version)
        if moment.action in ENTERS and owner not in self.there:
            self.there.add(owner)
            self._count(owner, 1)
            self.add(owner)
        elif moment.action in LEAVES and owner in self.there:
            self.there.remove(owner)
            self._count(owner, -1)
            self.drop(owner)

    def _count(self, owner: Place | str, change: int) -> None:
        if isinstance(owner, str):
            return
        self.versions += change
        self.unsized += change * (owner not in self.blobs_of)
        self.versions_of[owner[0]] += change
        if not self.versions_of[owner[0]]:
            del self.versions_of[owner[0]]


def growth_of(
    moments: Iterable[Moment], blobs_of: Mapping[Place | str, Sequence[str]], sizes: Mapping[str, int]
) -> tuple[str, tuple[GrowthPoint, ...]]:
    """Return the period, and a point for each in which something happened; owners are versions and backbones' names."""
    events = list(moments)
    period = _period(events)
    length = PERIODS[period]
    state = _State(blobs_of, sizes)
    points: list[GrowthPoint] = []
    start = 0
    while start < len(events):
        at, end = events[start].at[:length], start
        done: Counter[str] = Counter()
        state.added_nbytes = 0
        while end < len(events) and events[end].at[:length] == at:
            done[events[end].action] += 1
            state.apply(events[end])
            end += 1
        points.append(_point(at + FILL[length:], done, state))
        start = end
    return period, tuple(points)


def _point(at: str, done: Counter[str], state: _State) -> GrowthPoint:
    return GrowthPoint(
        at=at,
        published=done["publish"],
        removed=done["rm"],
        restored=done["restore"],
        purged=done["purge"],
        tasks=len(state.versions_of),
        versions=state.versions,
        unsized=state.unsized,
        added_nbytes=state.added_nbytes,
        live_nbytes=state.live_nbytes,
    )


def _period(events: Sequence[Moment]) -> str:
    if not events:
        return "day"
    first, last = (datetime.fromisoformat(event.at) for event in (events[0], events[-1]))
    span_s = (last - first).total_seconds()
    return next((period for period, most in LONGEST_S.items() if span_s <= most), "month")
