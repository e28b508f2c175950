"""Splits of aliases in the store: made and ended as events, gated as moves are, and held against removal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.tenants import as_tenant
from support.toy_backbone import publish, relabel, tune

from store.errors import (
    GateError,
    InUseError,
    NotAllowedError,
    RefusedError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.rebuild import rebuild
from store.maintenance.verify import verify
from store.records.events import AliasRule
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.records.splits import SplitOptions
from store.registry.alias_preview import preview_rollback
from store.registry.splits import end_split, settle_split, split_alias
from store.registry.store import Store, Version

SHADOW = SplitOptions(shadow=(2, 10))
CANARY = SplitOptions(rules=("errors>1%",), over=100, promote=True)


def actions(store: Store) -> list[tuple[str, int | None]]:
    return [(event.action, event.version) for event in store.history("flowers") if event.alias == "prod"]


def test_a_split_is_there_until_it_is_ended_on_each_kind_of_catalogue(anywhere: Store, folder: Path) -> None:
    publish(anywhere, folder, aliases=("prod",))
    publish(anywhere, relabel(folder, "a", "b", "c"))
    split = split_alias(anywhere, "flowers", "prod", {1: 90, 2: 10})
    assert anywhere.split("flowers", "prod") == split
    assert anywhere.splits("flowers") == [split]
    assert split_alias(anywhere, "flowers", "prod", {1: 90, 2: 10}) == split  # the same again changes nothing
    assert anywhere.resolve("flowers@prod").number == 1
    assert end_split(anywhere, "flowers", "prod") == split
    assert (anywhere.split("flowers", "prod"), anywhere.splits("flowers")) == (None, [])
    assert actions(anywhere) == [("alias", 1), ("split", 1), ("split-rm", 1)]
    with pytest.raises(VersionNotFoundError, match="is not split"):
        end_split(anywhere, "flowers", "prod")
    assert verify(anywhere) == []


@pytest.fixture
def two(store: Store, release: Callable[..., Version]) -> Store:
    """Versions 1 and 2, with certificates; `prod` names the first."""
    release(full=90, cut=90, aliases=("prod",))
    release(full=90, cut=80)
    return store


def test_every_move_of_the_alias_ends_its_split(two: Store) -> None:
    moves: list[tuple[Callable[[], object], int]] = [
        (lambda: two.set_alias("flowers", "prod", 1), 1),
        (lambda: two.set_alias("flowers", "prod", 2), 2),
        (lambda: two.rollback("flowers", "prod"), 1),
    ]
    for move, number in moves:
        split_alias(two, "flowers", "prod", {1: 50, 2: 50})
        move()
        assert (two.split("flowers", "prod"), two.aliases("flowers")["prod"]) == (None, number)
    split_alias(two, "flowers", "prod", options=SHADOW)
    two.remove_alias("flowers", "prod")
    assert two.splits("flowers") == []


def test_a_rollback_goes_to_the_stable_version_and_says_so_before(two: Store) -> None:
    two.set_alias("flowers", "prod", 2)
    split_alias(two, "flowers", "prod", {2: 50, 1: 50})
    preview = preview_rollback(two, "flowers", "prod")
    assert (preview.current, preview.target) == (2, 2)
    assert two.rollback("flowers", "prod").number == 2
    assert two.history("flowers")[-1].details == {"rollback": True}
    assert two.rollback("flowers", "prod").number == 1


def test_the_stable_version_becomes_the_aliass_in_the_same_transaction(two: Store) -> None:
    split_alias(two, "flowers", "beta", {2: 90, 1: 10})
    alias, split = two.history("flowers")[-2:]
    assert (alias.action, alias.version, split.action, split.batch) == ("alias", 2, "split", alias.number)
    assert two.aliases("flowers")["beta"] == 2


def test_a_version_of_a_split_is_not_removed(two: Store) -> None:
    two.set_alias("flowers", "latest", 1)
    split_alias(two, "flowers", "prod", options=SHADOW)
    with pytest.raises(InUseError, match="flowers:2 is part of a split of flowers@prod"):
        two.remove("flowers:2")
    end_split(two, "flowers", "prod")
    two.remove("flowers:2")


def test_rules_of_the_alias_hold_for_every_version_that_answers_and_for_no_shadow(two: Store) -> None:
    two.set_rule(AliasRule("flowers", "prod", max_drop=1.0))
    with pytest.raises(GateError, match="flowers:2 costs 10 points"):
        split_alias(two, "flowers", "prod", {1: 99, 2: 1})
    split_alias(two, "flowers", "prod", options=SHADOW)


def test_a_protected_alias_is_split_and_put_back_with_force_alone(two: Store) -> None:
    two.set_rule(AliasRule("flowers", "prod", protected=True))
    with pytest.raises(NotAllowedError, match="is protected"):
        split_alias(two, "flowers", "prod", {1: 50, 2: 50})
    split = split_alias(two, "flowers", "prod", {1: 50, 2: 50}, options=CANARY, force=True)
    for change in (lambda: end_split(two, "flowers", "prod"), lambda: two.rollback("flowers", "prod")):
        with pytest.raises(NotAllowedError, match="is protected"):
            change()
    assert settle_split(two, split, {"rule": "errors>1%"})  # its own rule was allowed with it


def test_of_several_servers_that_judge_alike_one_ends_the_split(two: Store) -> None:
    split = split_alias(two, "flowers", "prod", {1: 50, 2: 50}, options=CANARY)
    evidence = {"rule": "errors>1%", "version": 2, "measured": 4.0}
    assert [settle_split(two, split, evidence) for _ in range(3)] == [True, False, False]
    event = two.history("flowers")[-1]
    assert (event.action, event.version, event.details) == ("split-rm", 1, {"rollback": True, "evidence": evidence})
    again = split_alias(two, "flowers", "prod", {1: 50, 2: 50}, options=CANARY)
    assert not settle_split(two, split, evidence)  # an older split with the same shares
    assert settle_split(two, again, {}, promote=True)
    assert (two.aliases("flowers")["prod"], two.split("flowers", "prod")) == (2, None)


def test_a_version_for_overload_is_shallower_certified_and_of_the_same_classes(two: Store, tmp_path: Path) -> None:
    def certified(source: Path, depth: int) -> Path:
        record = two.backbones()[0]
        certificate = Certificate(None, Accuracy(80, 100))
        card = Card(record.id.fingerprint, PruneIndex(depth, record.blocks, "given"), certificate)
        (source / "onetrunk.json").write_bytes(card.to_json())
        return source

    shallow = tune(tmp_path / "shallow", depth=1)
    publish(two, shallow, depth=1)  # 3: no certificate
    publish(two, certified(relabel(shallow, "a", "b", "c"), 1), depth=1)  # 4: other classes
    publish(two, certified(relabel(shallow, "rose", "tulip", "poppy 0"), 1), depth=1)  # 5
    refusals = {2: "a shallower version answers", 3: "has no certificate", 4: "has other classes"}
    for number, message in refusals.items():
        with pytest.raises(RefusedError, match=message):
            split_alias(two, "flowers", "prod", options=SplitOptions(overload=number))
    with pytest.raises(VersionNotFoundError, match="no 'flowers:9'"):
        split_alias(two, "flowers", "prod", options=SplitOptions(overload=9))
    assert split_alias(two, "flowers", "prod", options=SplitOptions(overload=5)).answering == (1, 5)


def test_a_catalogue_that_is_rebuilt_has_the_splits(two: Store) -> None:
    split = split_alias(two, "flowers", "prod", {1: 75, 2: 25})
    root = two.root
    two.close()
    for file in root.glob("catalogue*"):
        file.unlink()
    rebuild(root)
    with Store.open(root) as again:
        assert again.split("flowers", "prod") == split
        assert verify(again) == []


def test_a_tenant_splits_its_own_aliases_and_sees_the_events(store: Store, folder: Path) -> None:
    publish(store, folder, "acme/cars", aliases=("prod",))
    publish(store, relabel(folder, "a", "b", "c"), "acme/cars")
    acme, globex = as_tenant(store, "acme", "read", "promote"), as_tenant(store, "globex")
    acme.split_alias("acme/cars", "prod", {1: 50, 2: 50})
    with pytest.raises(TaskNotFoundError):
        globex.splits("acme/cars")
    assert [split.words for split in acme.splits("acme/cars")] == ["version 1 answers 50%, version 2 answers 50%"]
    assert acme.history("acme/cars")[-1].action == "split"
    acme.end_split("acme/cars", "prod")
