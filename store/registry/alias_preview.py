"""What moving an alias would do, and why it would be refused, without moving it."""

from __future__ import annotations

from dataclasses import dataclass

from store.catalogue.aliases import check_rule, rollback_target, rule_of
from store.errors import OnetrunkError
from store.records.bounds import check_version
from store.records.events import AliasRule
from store.records.evidence import Certificate
from store.records.refs import check_name
from store.registry.store import Store


@dataclass(frozen=True)
class AliasPreview:
    """The version that an alias names now (None where there is no alias) and the one that it would name.

    `target` is None where a rollback finds no earlier version. `refusal` is the error that the move would raise.
    """

    task: str
    alias: str
    current: int | None
    target: int | None
    rule: AliasRule
    certificate: Certificate | None
    refusal: OnetrunkError | None


def preview_alias(store: Store, task: str, alias: str, version: int, *, force: bool = False) -> AliasPreview:
    """Return what `store.set_alias` with the same arguments would do."""
    check_name(alias, "alias")
    check_version(version)
    return _preview(store, task, alias, version, force=force)


def preview_rollback(store: Store, task: str, alias: str, *, force: bool = False) -> AliasPreview:
    """Return what `store.rollback` with the same arguments would do."""
    store.require_task(task)
    split = store.split(task, check_name(alias, "alias"))
    if split is not None:
        return _preview(store, task, alias, split.stable, force=force)
    available = {row.version for row in store.queries.versions(task)}
    target = rollback_target(store.queries.history(task), check_name(alias, "alias"), available)
    return _preview(store, task, alias, target, force=force)


def _preview(store: Store, task: str, alias: str, target: int | None, *, force: bool) -> AliasPreview:
    rule, current = rule_of(store.queries, task, alias), store.aliases(task).get(alias)
    certificate, refusal = None, None
    if target is not None:
        ref = f"{task}:{target}"
        certificate = store.resolve(ref).manifest.certificate
        try:
            check_rule(rule, ref, certificate, force=force)
        except OnetrunkError as error:
            refusal = error
    return AliasPreview(task, alias, current, target, rule, certificate, refusal)
