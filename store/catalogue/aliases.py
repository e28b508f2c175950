"""Aliases: what they may point at, and what holds a version in place."""

from __future__ import annotations

import time
from collections.abc import Iterable
from fractions import Fraction

import sqlalchemy as sa

from store.catalogue.leases import PUBLISHING
from store.catalogue.schema import aliases
from store.catalogue.transaction import Transaction
from store.errors import GateError, InUseError, NotAllowedError, VersionNotFoundError
from store.queries.reader import Queries
from store.records.events import LATEST, AliasRule, Event
from store.records.evidence import Accuracy, Certificate
from store.records.listing import VersionRow

WHERE = (aliases.c.task == sa.bindparam("of_task")) & (aliases.c.alias == sa.bindparam("of_alias"))
INSERT = aliases.insert()
UPDATE = aliases.update().where(WHERE).values(version=sa.bindparam("to_version"))
DELETE = aliases.delete().where(WHERE)


def require(reader: Queries, task: str, version: int) -> VersionRow:
    row = reader.find(task, version=version)
    if row is None:
        raise VersionNotFoundError(f"no {task}:{version}: see `onetrunk ls {task}`")
    return row


def move_alias(
    transaction: Transaction,
    task: str,
    alias: str,
    version: int,
    certificate: Certificate | None,
    *,
    force: bool,
    rollback: bool = False,
) -> None:
    """Point the alias at the version unless it does so already; raise where its rule does not allow it."""
    current = transaction.queries.aliases(task).get(alias)
    if current == version:
        return
    check_rule(rule_of(transaction.queries, task, alias), f"{task}:{version}", certificate, force=force)
    write_alias(transaction, task, alias, version, current=current, rollback=rollback)


def write_alias(
    transaction: Transaction, task: str, alias: str, version: int, *, current: int | None, rollback: bool = False
) -> None:
    if current is None:
        transaction.execute(INSERT, {"task": task, "alias": alias, "version": version})
    else:
        transaction.execute(UPDATE, {"of_task": task, "of_alias": alias, "to_version": version})
    details = {"from": current, **({"rollback": True} if rollback else {})}
    transaction.record("alias", task, version=version, alias=alias, details=details)


def delete_alias(transaction: Transaction, task: str, alias: str) -> None:
    transaction.execute(DELETE, {"of_task": task, "of_alias": alias})
    transaction.record("alias-rm", task, alias=alias)


def rule_of(reader: Queries, task: str, alias: str) -> AliasRule:
    """Return the rule that holds: the task's own, else its tenant's, else everyone's, else none."""
    none = AliasRule(task, alias)
    return none if alias == LATEST else next((rule for rule in reader.rules(task) if rule.alias == alias), none)


def check_rule(rule: AliasRule, ref: str, certificate: Certificate | None, *, force: bool) -> None:
    """Raise unless the alias may point at this version: `force` moves a protected one, and opens no gate."""
    check_protected(rule, ref.partition(":")[0], force=force)
    if rule.max_drop is None and rule.min_accuracy is None:
        return
    if certificate is None:
        raise GateError(
            f"alias {rule.alias!r} asks for a certificate, {ref} has none: make it with `onetrunk fit`, or publish it "
            "with an onetrunk.json that has one"
        )
    if rule.max_drop is not None:
        _check_drop(rule, rule.max_drop, ref, certificate)
    if rule.min_accuracy is not None and _share(certificate.cut) < _exact(rule.min_accuracy):
        raise GateError(
            f"{ref} has accuracy {certificate.cut.value:.4g}, alias {rule.alias!r} asks for {rule.min_accuracy:g}: "
            "tune it further, or change the rule with `onetrunk alias rule`"
        )


def _check_drop(rule: AliasRule, allowed: float, ref: str, certificate: Certificate) -> None:
    if certificate.full is None:
        raise GateError(
            f"alias {rule.alias!r} allows {allowed:g} points, what the cut of {ref} costs is not known, as no model "
            "was tuned at full depth: fit it with --max-drop, or change the rule with `onetrunk alias rule`"
        )
    drop = 100 * (_share(certificate.full) - _share(certificate.cut))
    if drop > _exact(allowed):
        raise GateError(
            f"the cut of {ref} costs {float(drop):.4g} points, alias {rule.alias!r} allows {allowed:g}: "
            "cut less deep, or change the rule with `onetrunk alias rule`"
        )


def check_protected(rule: AliasRule, task: str, *, force: bool) -> None:
    if rule.protected and not force:
        raise NotAllowedError(
            f"alias {rule.alias!r} of {task} is protected: move it with --force, or ask who may "
            f"(`onetrunk alias ls {task}`)"
        )


def _share(accuracy: Accuracy) -> Fraction:
    return Fraction(accuracy.correct, accuracy.total)


def _exact(number: float) -> Fraction:
    # The number that was written: as floats, 90 % less 89 % are more than 1 point.
    return Fraction(str(number))


def check_unused(reader: Queries, row: VersionRow, *, but: tuple[str, ...] = ()) -> None:
    """Raise `InUseError` while an alias (other than these) or a lease holds the version."""
    holding = [alias for alias in row.aliases if alias not in but]
    if holding:
        raise InUseError(
            f"{row.task}:{row.version} is named by alias {', '.join(holding)}: point it elsewhere first "
            f"(`onetrunk alias set {row.task} {holding[0]} VERSION`)"
        )
    holders = [h for h in reader.holders(row.manifest.sha256, now_s=time.time()) if h != PUBLISHING]
    if holders:
        raise InUseError(
            f"{row.task}:{row.version} is in use by {', '.join(holders[:3])}: it is let go five minutes after the "
            "last request for it, or when the server stops"
        )


def rollback_target(events: Iterable[Event], alias: str, available: set[int]) -> int | None:
    """Return the version that the alias named before the one that it names; a rollback goes back further each time."""
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
