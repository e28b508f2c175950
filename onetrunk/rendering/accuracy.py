"""An accuracy as text: the share alone, or with its 95 % confidence interval and the number of images."""

from __future__ import annotations

from store.records.evidence import Accuracy


def percent(accuracy: Accuracy | None) -> str:
    return f"{accuracy.value:.1%}" if accuracy else "–"


def with_interval(accuracy: Accuracy) -> str:
    """Return it as a terminal shows it: `90.0% [82.6%, 94.5%] on 100 held-out images`."""
    low, high = accuracy.interval
    return f"{percent(accuracy)} [{low:.1%}, {high:.1%}] on {accuracy.total} held-out images"


def with_counts(accuracy: Accuracy) -> str:
    """Return it as a model card shows it: `90.0% (90 of 100; 95 % interval 82.6% to 94.5%)`."""
    low, high = accuracy.interval
    return f"{percent(accuracy)} ({accuracy.correct} of {accuracy.total}; 95 % interval {low:.1%} to {high:.1%})"
