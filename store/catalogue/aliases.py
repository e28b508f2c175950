"""Aliases: the rule that an alias obeys, and the version that a rollback points it at."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from store.errors import GateError, InvalidSettingError, NotAllowedError
from store.queries.reader import Queries
from store.records.events import LATEST, AliasRule, Event
from store.records.evidence import Accuracy, Certificate


def rule_of(queries: Queries, task: str, alias: str) -> AliasRule:
    """Return the rule that applies: the task's own, else its tenant's, else that of all tasks, else an empty one."""
    empty = AliasRule(task, alias)
    return empty if alias == LATEST else next((rule for rule in queries.rules(task) if rule.alias == alias), empty)


def check_range(rule: AliasRule) -> None:
    if not 0 <= (rule.max_drop or 0) <= 100 or not 0 <= (rule.min_accuracy or 0) <= 1:
        raise InvalidSettingError(
            f"rule of {rule.alias!r}: max_drop is in points, 0 to 100, min_accuracy a share, 0 to 1; "
            f"got {rule.max_drop} and {rule.min_accuracy}"
        )


def check_rule(rule: AliasRule, ref: str, certificate: Certificate | None, *, force: bool) -> None:
    """Raise unless the alias may point at this version: `force` moves a protected alias, and opens no gate."""
    check_protected(rule, ref.partition(":")[0], force=force)
    if rule.max_drop is None and rule.min_accuracy is None:
        return
    if certificate is None:
        raise GateError(
            f"alias {rule.alias!r} requires a certificate, {ref} has none: make it with "
            "`fit_and_publish(store, task, dataset)`, or publish a folder whose onetrunk.json has one"
        )
    if rule.max_drop is not None:
        _check_drop(rule, rule.max_drop, ref, certificate)
    if rule.min_accuracy is not None and _share(certificate.cut) < _exact(rule.min_accuracy):
        raise GateError(
            f"{ref} has accuracy {certificate.cut.value:.4g}, alias {rule.alias!r} requires {rule.min_accuracy:g}: "
            "tune it further, or change the rule with `store.set_rule(rule)`"
        )


def _check_drop(rule: AliasRule, allowed: float, ref: str, certificate: Certificate) -> None:
    if certificate.full is None:
        raise GateError(
            f"alias {rule.alias!r} allows a drop of {allowed:g} points, the drop of {ref} is not known, as no model "
            "was tuned at full depth: fit it with `max_drop=`, or change the rule with `store.set_rule(rule)`"
        )
    drop = 100 * (_share(certificate.full) - _share(certificate.cut))
    if drop > _exact(allowed):
        raise GateError(
            f"the cut of {ref} costs {float(drop):.4g} points, alias {rule.alias!r} allows {allowed:g}: "
            "cut fewer blocks, or change the rule with `store.set_rule(rule)`"
        )


def check_possible(rule: AliasRule, task: str, *, force: bool, drop_known: bool) -> None:
    """Raise where no version of the task could take the alias, whatever is measured of it."""
    check_protected(rule, task, force=force)
    if rule.max_drop is not None and not drop_known:
        raise GateError(
            f"alias {rule.alias!r} allows a drop of {rule.max_drop:g} points, and this fit tunes no model at full "
            "depth to compare with: fit it with `max_drop=`, or leave out the alias"
        )


def check_protected(rule: AliasRule, task: str, *, force: bool) -> None:
    if rule.protected and not force:
        raise NotAllowedError(
            f"alias {rule.alias!r} of {task} is protected: move it with `force=True`, or see `store.aliases(task)`"
        )


def _share(accuracy: Accuracy) -> Fraction:
    return Fraction(accuracy.correct, accuracy.total)


def _exact(number: float) -> Fraction:
    # The number that was written: as floats, 90 % less 89 % are more than 1 point.
    return Fraction(str(number))


def rollback_target(events: Iterable[Event], alias: str, available: set[int]) -> int | None:
    """Return the version that the alias pointed at before its current one; each rollback goes back further."""
    trail: list[int] = []
    for event in events:
        if event.alias != alias or event.action not in ("alias", "alias-rm"):
            continue
        if event.action == "alias-rm":
            trail.clear()
        elif (event.details or {}).get("rollback"):
            while trail and trail[-1] != event.version:
                trail.pop()
        elif event.version is not None:
            trail.append(event.version)
    current = trail[-1] if trail else None
    return next((number for number in reversed(trail[:-1]) if number in available and number != current), None)
