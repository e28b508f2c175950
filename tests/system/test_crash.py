"""Every verb, killed at every one of its system calls that can change the store, and with every one of them failing.

CI takes a spread sample; `ONETRUNK_CRASH_POINTS=all` takes all, as `python -m benchmarks.registry.crash_points` does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor

import pytest
from support.fault_points import FAULTS, Point, points, sample, try_points
from support.invariants import VerbSubject
from support.store_verbs import VERBS

FRACTION = 1.0 if os.environ.get("ONETRUNK_CRASH_POINTS") == "all" else 0.06
AT_LEAST = 500

pytestmark = pytest.mark.timeout(1800)  # of all points, on a machine that does other things


@pytest.fixture(scope="module")
def points_of(verb_subjects: Mapping[str, VerbSubject], traced_pool: Executor) -> dict[str, list[Point]]:
    return dict(zip(verb_subjects, traced_pool.map(points, verb_subjects.values()), strict=True))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_or_meets_a_failing_disk_is_done_or_undone_and_can_be_repeated(
    verb: str, verb_subjects: Mapping[str, VerbSubject], points_of: Mapping[str, list[Point]], traced_pool: Executor
) -> None:
    results = try_points(verb_subjects[verb], sample(points_of[verb], FRACTION), traced_pool)
    assert [f"{result.point}, {result.how}: {problem}" for result in results for problem in result.problems] == []
    assert {result.how for result in results if result.point.fault == "killed"} == {"killed"}


def test_the_sample_has_at_least_500_points_and_every_fault_of_every_call(
    points_of: Mapping[str, list[Point]], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {verb: sample(points, FRACTION) for verb, points in points_of.items()}
    calls = {verb: {point.call for point in points} for verb, points in points_of.items()}
    assert {verb: {(p.call, p.fault) for p in points} for verb, points in chosen.items()} == {
        verb: {(call, fault) for call in names for fault in FAULTS} for verb, names in calls.items()
    }
    tried, possible = sum(map(len, chosen.values())), sum(map(len, points_of.values()))
    with capsys.disabled():
        print(f"\n{tried} of {possible} crash points tried, of {len(points_of)} verbs")  # noqa: T201 # the figure of CI
    assert tried >= AT_LEAST
