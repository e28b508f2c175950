from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.accounting.growth import Moment, growth_of

SIZES = {"x": 1, "y": 10, "z": 100, "w": 1000}
BLOBS: Mapping[object, Sequence[str]] = {("a", 1): "xy", ("a", 2): "yz", ("b", 1): "xz", "vit": "w"}
owners = st.sampled_from([("a", 1), ("a", 2), ("b", 1), ("gone", 1), "vit"])
events = st.lists(st.tuples(owners, st.booleans(), st.integers(0, 5)), max_size=20)


def moment(owner: object, enters: bool, hour: int) -> Moment:
    at = f"2026-03-01T{hour:02}:30:00.000+00:00"
    if isinstance(owner, str):
        return Moment(at, "backbone" if enters else "backbone-rm", owner, None)
    return Moment(at, "publish" if enters else "rm", *owner)


@given(events)
def test_bytes_at_the_end_of_each_period_are_those_of_a_recount(drawn) -> None:
    moments = sorted((moment(*one) for one in drawn), key=lambda m: m.at)
    _, points = growth_of(moments, BLOBS, SIZES)
    assert len(points) == len({m.at for m in moments}) or not moments
    for point in points:
        there: set[object] = set()
        for m in (m for m in moments if m.at[:13] <= point.at[:13]):
            owner = m.subject if m.version is None else (m.subject, m.version)
            (there.add if m.action in ("publish", "backbone") else there.discard)(owner)
        blobs = {digest for owner in there for digest in BLOBS.get(owner, ())}
        assert point.live_nbytes == sum(SIZES[digest] for digest in blobs)
        versions = [owner for owner in there if isinstance(owner, tuple)]
        assert (point.versions, point.tasks) == (len(versions), len({task for task, _ in versions}))
        assert point.unsized == len([owner for owner in versions if owner not in BLOBS])


@pytest.mark.parametrize(
    ("last", "period", "at"),
    [
        ("2026-03-01T00:01:59.000+00:00", "second", "2026-03-01T00:01:59+00:00"),
        ("2026-03-01T01:30:00.000+00:00", "minute", "2026-03-01T01:30:00+00:00"),
        ("2026-03-03T12:30:00.000+00:00", "hour", "2026-03-03T12:00:00+00:00"),
        ("2026-06-01T12:30:00.000+00:00", "day", "2026-06-01T00:00:00+00:00"),
        ("2027-06-15T12:30:00.000+00:00", "month", "2027-06-01T00:00:00+00:00"),
    ],
)
def test_the_period_fits_the_length_of_the_history(last: str, period: str, at: str) -> None:
    first = Moment("2026-03-01T00:00:00.000+00:00", "publish", "a", 1)
    found, points = growth_of([first, Moment(last, "publish", "a", 2)], BLOBS, SIZES)
    assert (found, points[-1].at) == (period, at)


def test_without_a_history_there_is_no_growth() -> None:
    assert growth_of([], BLOBS, SIZES) == ("day", ())
