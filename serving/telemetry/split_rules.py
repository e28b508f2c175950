"""Judge a split by its rules: pure, from the outcomes of all replicas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serving.runtime.choices import CANDIDATE, SHADOW
from serving.telemetry.split_counters import Outcome, Outcomes, Part
from store.records.splits import AliasSplit, SplitRule


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a split, and the evidence for it, which the history keeps."""

    promote: bool
    evidence: dict[str, object]


def judge(split: AliasSplit, replicas: Iterable[Outcomes]) -> Verdict | None:
    """Return the verdict on a split, None while there is none.

    Of each candidate and of the shadow, the last `split.over` requests of all replicas count. Failures and
    disagreements are judged as soon as there are more than the rule allows in so many; a percentile, and a promotion,
    once there are so many.
    """
    parts: defaultdict[Part, list[Outcome]] = defaultdict(list)
    for outcomes in replicas:
        for part, known in outcomes.items():
            parts[part] += known
    lately = {
        part: sorted(seen)[-split.over :] for part, seen in sorted(parts.items()) if part[1] in (CANDIDATE, SHADOW)
    }
    for part, seen in lately.items():
        for rule in split.rules:
            measured = measure(rule, seen, split.over)
            if measured is not None and measured > rule.above:
                return Verdict(promote=False, evidence={"rule": str(rule), **describe(part, seen, measured)})
    candidate = lately.get((split.shares[1][0], CANDIDATE), []) if split.promote else []
    if len(candidate) >= split.over:
        part = (split.shares[1][0], CANDIDATE)
        return Verdict(promote=True, evidence={"rules": list(map(str, split.rules)), **describe(part, candidate, None)})
    return None


def measure(rule: SplitRule, seen: Sequence[Outcome], over: int) -> float | None:
    """Return the rule's metric, in percent of `over` requests, or in milliseconds; None where it cannot be known."""
    if rule.metric == "errors":
        return 100 * sum(outcome.failed for outcome in seen) / over
    if rule.metric == "disagreement":
        return 100 * sum(outcome.agrees is False for outcome in seen) / over
    if len(seen) < over:
        return None
    ordered = sorted(outcome.seconds for outcome in seen)
    return 1000 * ordered[-(-99 * len(ordered) // 100) - 1]


def describe(part: Part, seen: Sequence[Outcome], measured: float | None) -> dict[str, object]:
    """Return what was seen of a version, with what its rule measured."""
    described: dict[str, object] = {
        "version": part[0],
        "part": part[1],
        "requests": len(seen),
        "failed": sum(outcome.failed for outcome in seen),
        "disagreed": sum(outcome.agrees is False for outcome in seen),
    }
    return described if measured is None else {**described, "measured": round(measured, 4)}
