"""What the rules of aliases promise: protection, and gates on certificate, drop and accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.toy_backbone import publish

from store.errors import (
    GateError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
)
from store.records.events import AliasRule
from store.registry.store import Store, Version


def test_a_protected_alias_moves_by_force_alone(store: Store, release: Callable[..., Version]) -> None:
    release(aliases=("prod",))
    release()
    store.set_rule(AliasRule("flowers", "prod", protected=True))
    attempts = (
        lambda: store.set_alias("flowers", "prod", 2),
        lambda: store.remove_alias("flowers", "prod"),
        lambda: release(aliases=("prod",)),
    )
    for attempt in attempts:
        with pytest.raises(NotAllowedError, match="alias 'prod' of flowers is protected: move it with `force=True`"):
            attempt()
    assert store.aliases("flowers") == {"latest": 2, "prod": 1}
    store.set_alias("flowers", "prod", 2, force=True)
    assert store.aliases("flowers") == {"latest": 2, "prod": 2}


def test_publishing_again_what_a_protected_alias_names_changes_nothing(store: Store, folder: Path) -> None:
    first = publish(store, folder, aliases=("prod",))
    store.set_rule(AliasRule("flowers", "prod", protected=True))
    assert publish(store, folder, aliases=("prod",)) == first


def test_a_bound_on_what_the_cut_costs_refuses_a_version_of_which_that_is_not_known(
    store: Store, release: Callable[..., Version]
) -> None:
    release(cut=95)
    store.set_rule(AliasRule("flowers", "prod", min_accuracy=0.9))
    store.set_alias("flowers", "prod", 1)
    store.set_rule(AliasRule("flowers", "canary", max_drop=50))
    with pytest.raises(GateError, match=r"allows a drop of 50 points, the drop of flowers:1 is not known.*`max_drop=`"):
        store.set_alias("flowers", "canary", 1)


@pytest.mark.parametrize(
    ("cut", "rule", "message"),
    [
        (89, {"max_drop": 0.5}, r"the cut of flowers(:1)? costs 1 points, alias 'prod' allows 0.5: cut fewer blocks"),
        (89, {"min_accuracy": 0.9}, r"flowers(:1)? has accuracy 0.89, alias 'prod' requires 0.9: tune it further"),
    ],
)
def test_a_gate_says_what_is_missing_and_force_does_not_open_it(
    store: Store, release: Callable[..., Version], cut: int, rule: dict[str, float], message: str
) -> None:
    store.set_rule(AliasRule("flowers", "prod", **rule))
    release(full=90, cut=cut)
    with pytest.raises(GateError, match=message):
        store.set_alias("flowers", "prod", 1, force=True)
    with pytest.raises(GateError, match=message):
        release(full=90, cut=cut, aliases=("prod",))
    assert [version.number for version in store.versions("flowers")] == [1]


def test_a_gate_lets_through_what_just_meets_it(store: Store, release: Callable[..., Version]) -> None:
    # 100 * (0.9 - 0.89) is a little more than 1
    store.set_rule(AliasRule("flowers", "prod", max_drop=1.0, min_accuracy=0.89))
    assert release(full=90, cut=89, aliases=("prod",)).aliases == ("latest", "prod")


def test_a_gate_asks_for_a_certificate(store: Store, release: Callable[..., Version]) -> None:
    store.set_rule(AliasRule("flowers", "prod", max_drop=100))
    release()
    with pytest.raises(GateError, match="requires a certificate, flowers:1 has none: make it with `fit_and_publish"):
        store.set_alias("flowers", "prod", 1)


def test_a_tasks_own_rule_counts_before_its_tenants_before_everyones(store: Store, folder: Path) -> None:
    publish(store, folder, "acme/flowers")
    for task, accuracy in (("*", 0.1), ("acme/*", 0.2), ("acme/flowers", 0.3)):
        store.set_rule(AliasRule(task, "prod", min_accuracy=accuracy))
    assert [rule.min_accuracy for rule in store.rules("acme/flowers")] == [0.3, 0.2, 0.1]
    store.set_rule(AliasRule("acme/flowers", "prod"))
    assert [rule.min_accuracy for rule in store.rules("acme/flowers")] == [0.2, 0.1]
    assert [rule.min_accuracy for rule in store.rules("flowers")] == [0.1]


@pytest.mark.parametrize("scope", ["acme/flowers/*", "*/flowers", "/*", ""])
def test_a_rule_that_could_hold_for_no_task_is_refused(store: Store, scope: str) -> None:
    with pytest.raises(InvalidNameError):
        store.set_rule(AliasRule(scope, "prod", protected=True))


@pytest.mark.parametrize(
    "rule", [{"max_drop": -1}, {"max_drop": 101}, {"min_accuracy": 1.1}, {"max_drop": float("nan")}]
)
def test_a_rule_that_nothing_could_meet_is_refused(store: Store, rule: dict[str, float]) -> None:
    with pytest.raises(InvalidSettingError, match="max_drop is in points"):
        store.set_rule(AliasRule("flowers", "prod", **rule))


def test_a_rollback_obeys_the_rules_of_its_alias(store: Store, release: Callable[..., Version]) -> None:
    release(full=90, cut=60, aliases=("prod",))
    release(full=90, cut=90, aliases=("prod",))
    store.set_rule(AliasRule("flowers", "prod", protected=True, max_drop=1))
    with pytest.raises(NotAllowedError):
        store.rollback("flowers", "prod")
    with pytest.raises(GateError, match="the cut of flowers:1 costs 30 points"):
        store.rollback("flowers", "prod", force=True)
