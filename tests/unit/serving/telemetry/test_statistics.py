"""Quantiles that occurred, and sums over replicas."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from serving.telemetry.counters import MOST_NAMES, TenantUsage, bounded
from serving.telemetry.statistics import quantiles
from serving.telemetry.top_labels import OTHER


def quantile_twin(values: list[float], q: float) -> float:
    """The least value that at least the share q of all does not exceed."""
    return next(x for x in sorted(values) if sum(value <= x for value in values) >= math.ceil(q * len(values)))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=120))
def test_quantiles_are_values_that_occurred(seconds: list[float]) -> None:
    shown = quantiles(seconds)
    for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert shown[name] == round(1000 * quantile_twin(seconds, q), 3)
    assert (shown["count"], shown["max"]) == (len(seconds), round(1000 * max(seconds), 3))


def test_there_are_no_quantiles_of_nothing() -> None:
    assert quantiles([]) == {"count": 0, "p50": None, "p90": None, "p99": None, "max": None}


def test_a_flood_of_names_is_counted_in_bounded_memory() -> None:
    table: dict[str, TenantUsage] = {}
    for number in range(MOST_NAMES + 100):
        bounded(table, f"tenant {number}", TenantUsage).requests += 1
    assert len(table) == MOST_NAMES + 1
    assert table[OTHER].requests == 100
