"""Every verb, killed at every one of its system calls that can change the store, and with every one of them failing.

CI takes a spread sample; `ONETRUNK_CRASH_POINTS=all` takes all, as `benchmarks/crash_points.py` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

import pytest
from support.fault_points import FAULTS, Point, points, sample, try_point, workers
from support.invariants import Ground, prepare
from support.store_verbs import VERBS
from support.strace import why_not
from support.task_inputs import make_inputs

REASON = why_not()
FRACTION = 1.0 if os.environ.get("ONETRUNK_CRASH_POINTS") == "all" else 0.06
AT_LEAST = 500

pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no process can be traced: {REASON}"),
    pytest.mark.timeout(1800),  # of all points, on a machine that does other things
]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with workers() as running:
        yield running


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ground]:
    inputs = make_inputs(tmp_path_factory.mktemp("inputs"))
    return {name: prepare(name, inputs, tmp_path_factory.mktemp("ground")) for name in VERBS}


@pytest.fixture(scope="module")
def found(grounds: Mapping[str, Ground], pool: ProcessPoolExecutor) -> dict[str, list[Point]]:
    return dict(zip(grounds, pool.map(points, grounds.values()), strict=True))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_or_meets_a_failing_disk_is_done_or_undone_and_can_be_repeated(
    verb: str, grounds: Mapping[str, Ground], found: Mapping[str, list[Point]], pool: ProcessPoolExecutor
) -> None:
    chosen = sample(found[verb], FRACTION)
    results = list(pool.map(try_point, [grounds[verb]] * len(chosen), chosen, chunksize=4))
    assert [f"{result.point}, {result.how}: {problem}" for result in results for problem in result.problems] == []
    assert {result.how for result in results if result.point.fault == "killed"} == {"killed"}


def test_the_sample_has_at_least_500_points_and_every_fault_of_every_call(
    found: Mapping[str, list[Point]], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {verb: sample(points, FRACTION) for verb, points in found.items()}
    calls = {verb: {point.call for point in points} for verb, points in found.items()}
    assert {verb: {(p.call, p.fault) for p in points} for verb, points in chosen.items()} == {
        verb: {(call, fault) for call in names for fault in FAULTS} for verb, names in calls.items()
    }
    tried, possible = sum(map(len, chosen.values())), sum(map(len, found.values()))
    with capsys.disabled():
        print(f"\n{tried} of {possible} crash points tried, of {len(found)} verbs")  # noqa: T201 # the figure of CI
    assert tried >= AT_LEAST
