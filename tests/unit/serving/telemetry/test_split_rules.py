"""A split is judged by the last requests of each candidate, of all replicas together."""

from __future__ import annotations

import math
import random

import pytest

from serving.telemetry.split_counters import MOST_JUDGED, MOST_SERIES, Outcome, Outcomes, SplitCounters
from serving.telemetry.split_rules import judge
from store.records.splits import AliasSplit, SplitRule

STABLE, CANDIDATE, SHADOW = (3, "stable"), (4, "candidate"), (4, "shadow")


def split(*rules: str, over: int = 100, promote: bool = False, number: int = 1, alias: str = "prod") -> AliasSplit:
    parsed = tuple(SplitRule.parse(rule) for rule in rules)
    return AliasSplit("flowers", alias, ((3, 90), (4, 10)), (4, 5), None, parsed, over, promote, number)


def seen(*failed: bool, seconds: float = 0.01, agrees: bool | None = None, start: int = 0) -> tuple[Outcome, ...]:
    return tuple(Outcome(float(start + at), each, seconds, agrees) for at, each in enumerate(failed))


GOOD, BAD = (False,), (True,)


@pytest.mark.parametrize(
    ("rule", "outcomes", "broken"),
    [
        ("errors>2%", {CANDIDATE: seen(*BAD * 2)}, False),
        ("errors>2%", {CANDIDATE: seen(*BAD * 3)}, True),  # no later answer can bring it back within the rule
        ("errors>2%", {CANDIDATE: seen(*BAD * 3, *GOOD * 100)}, False),  # they are not among the last hundred
        ("errors>2%", {STABLE: seen(*BAD * 100)}, False),
        ("errors>2%", {SHADOW: seen(*BAD * 3)}, True),
        ("errors>0%", {CANDIDATE: seen(*BAD)}, True),
        ("disagreement>5%", {SHADOW: seen(*GOOD * 5, agrees=False)}, False),
        ("disagreement>5%", {SHADOW: seen(*GOOD * 6, agrees=False)}, True),
        ("disagreement>5%", {SHADOW: seen(*GOOD * 100, agrees=True)}, False),
        ("p99_ms>20", {CANDIDATE: seen(*GOOD * 99, seconds=0.5)}, False),
        ("p99_ms>20", {CANDIDATE: seen(*GOOD * 100, seconds=0.5)}, True),
        ("p99_ms>20", {CANDIDATE: (*seen(*GOOD * 99), *seen(False, seconds=0.5, start=99))}, False),
        ("p99_ms>20", {CANDIDATE: (*seen(*GOOD * 98), *seen(*GOOD * 2, seconds=0.5, start=98))}, True),
    ],
)
def test_a_rule_is_broken_or_not(rule: str, outcomes: Outcomes, broken: bool) -> None:
    verdict = judge(split(rule), [outcomes])
    assert (verdict is not None) == broken
    if verdict is not None:
        assert not verdict.promote
        assert verdict.evidence["rule"] == rule


def test_replicas_are_judged_together_whatever_each_of_them_saw() -> None:
    generator = random.Random(1)
    for _ in range(50):
        each = [Outcome(float(at), generator.random() < 0.04, 0.01, None) for at in range(300)]
        shares: list[list[Outcome]] = [[], [], []]
        for outcome in each:
            generator.choice(shares).append(outcome)
        alone = judge(split("errors>3%"), [{CANDIDATE: tuple(each)}])
        assert judge(split("errors>3%"), [{CANDIDATE: tuple(share)} for share in shares]) == alone
        assert (alone is not None) == (sum(outcome.failed for outcome in each[-100:]) > 3)


def test_a_candidate_that_keeps_its_rules_is_promoted_with_the_evidence() -> None:
    rules = split("errors>1%", "p99_ms>50", promote=True)
    assert judge(rules, [{CANDIDATE: seen(*GOOD * 99)}]) is None
    verdict = judge(rules, [{CANDIDATE: seen(*GOOD * 100), SHADOW: seen(False, agrees=True)}])
    assert verdict is not None
    assert verdict.promote
    assert verdict.evidence["rules"] == ["errors>1%", "p99_ms>50"]
    assert (verdict.evidence["version"], verdict.evidence["requests"], verdict.evidence["failed"]) == (4, 100, 0)
    assert judge(split("errors>1%"), [{CANDIDATE: seen(*GOOD * 100)}]) is None


def test_a_new_split_of_the_alias_begins_with_no_outcomes_and_an_old_one_counts_no_more() -> None:
    counters, old, new = SplitCounters(), split("errors>1%"), split("errors>1%", number=2)
    counters.count(old, *CANDIDATE, Outcome(0.0, True, 0.1, None))
    counters.count(new, *CANDIDATE, Outcome(1.0, False, 0.1, None))
    counters.count(old, *CANDIDATE, Outcome(2.0, True, 0.1, None))  # was long on its way
    assert counters.outcomes() == {new: {CANDIDATE: (Outcome(1.0, False, 0.1, None),)}}
    counters.forget(new)
    assert counters.judged == []
    (usage,) = counters.series().values()
    assert (usage.requests, usage.failed) == (3, 2)


def test_however_many_splits_there_are_they_are_counted_in_bounded_memory() -> None:
    counters = SplitCounters()
    for number in range(MOST_SERIES + 50):
        for _ in range(12):
            outcome = Outcome(0.0, False, 0.1, None)
            counters.count(split("errors>1%", over=10, number=number, alias=f"a{number}"), *CANDIDATE, outcome)
    assert len(counters.series()) == MOST_SERIES + 1
    assert sum(part.requests for part in counters.series().values()) == 12 * (MOST_SERIES + 50)
    assert len(counters.judged) == MOST_JUDGED
    assert math.prod(len(parts[CANDIDATE]) == 10 for parts in counters.outcomes().values())
