"""Splits of aliases in the catalogue: events of the history alone, of which the alias's last one counts.

So there is no table of them: whatever moves the alias ends its split, and what reads the history knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from store.catalogue.aliases import check_protected, check_rule, rule_of
from store.catalogue.transaction import Transaction
from store.catalogue.versions import require_version
from store.records.evidence import Certificate
from store.records.splits import AliasSplit


def put_split(
    transaction: Transaction, split: AliasSplit, certificates: Mapping[int, Certificate | None], *, force: bool
) -> AliasSplit:
    """Split the alias, and point it at the stable version; raise where its rule does not allow a version that answers.

    The same split again changes nothing.
    """
    task, alias = split.task, split.alias
    for number in split.versions:
        require_version(transaction.queries, task, number)
    known = transaction.queries.split(task, alias)
    if known is not None and replace(known, number=split.number) == split:
        return known
    rule = rule_of(transaction.queries, task, alias)
    for number in split.answering:
        check_rule(rule, f"{task}:{number}", certificates[number], force=force)
    current = transaction.queries.aliases(task).get(alias)
    if current != split.stable:
        transaction.write_alias(task, alias, split.stable, current=current)
    event = transaction.record("split", task, version=split.stable, alias=alias, details=split.to_details())
    return replace(split, number=event.number)


def remove_split(
    transaction: Transaction, split: AliasSplit, *, force: bool, details: Mapping[str, object] | None = None
) -> None:
    """Send all requests to the stable version again."""
    check_protected(rule_of(transaction.queries, split.task, split.alias), split.task, force=force)
    transaction.record("split-rm", split.task, version=split.stable, alias=split.alias, details=details)


def settle_split(transaction: Transaction, split: AliasSplit, evidence: Mapping[str, object], *, promote: bool) -> bool:
    """End the split by its own rules, which were allowed when it was made; return False where it is another by now."""
    known = transaction.queries.split(split.task, split.alias)
    if known is None or known.number != split.number:
        return False
    if promote:
        candidate = split.shares[1][0]
        transaction.write_alias(split.task, split.alias, candidate, current=split.stable, evidence=evidence)
    else:
        details = {"rollback": True, "evidence": evidence}
        transaction.record("split-rm", split.task, version=split.stable, alias=split.alias, details=details)
    return True
