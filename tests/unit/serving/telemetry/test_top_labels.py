"""However many names there are, few have a series, and every series only grows while it is there."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.telemetry.top_labels import MOST_NAMES, OTHER, TopLabels

NAMES = st.lists(st.sampled_from("abcdefgh") | st.just(None), max_size=200)


@given(NAMES, st.integers(0, 4))
def test_every_event_is_counted_once_and_series_are_bounded(events: list[str | None], most: int) -> None:
    """`None` settles; a series that was dropped begins again from nothing, as a counter that was reset."""
    labels, counts, ended = TopLabels(most), Counter[str](), 0
    for event in events:
        if event is None:
            ended += sum(counts.pop(name, 0) for name in labels.settle())
            continue
        label = labels.label(event)
        assert label in (event, OTHER)
        counts[label] += 1
        assert len(counts) <= most + 1
    assert counts.total() + ended == sum(event is not None for event in events)


def test_a_name_that_becomes_busy_gets_the_series_of_one_that_is_quiet() -> None:
    labels = TopLabels(2)
    for _ in range(10):
        assert [labels.label(name) for name in ("a", "b", "c")] == ["a", "b", OTHER]
    assert labels.settle() == []  # as busy as they are
    for name, count in (("a", 10), ("b", 1), ("c", 5)):
        for _ in range(count):
            labels.label(name)
    assert labels.settle() == ["b"]
    assert [labels.label(name) for name in ("a", "b", "c")] == ["a", OTHER, "c"]


def test_a_flood_of_names_takes_bounded_memory() -> None:
    labels = TopLabels(3)
    assert {labels.label(f"task {number}") for number in range(2 * MOST_NAMES)} == {
        "task 0", "task 1", "task 2", OTHER,
    }  # fmt: skip
    assert len(labels._lately) == MOST_NAMES
