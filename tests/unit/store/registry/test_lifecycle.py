"""What aliases, gates, tags, removal and history promise, one sentence each."""

from __future__ import annotations

import dataclasses
import itertools
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.toy_backbone import Toy, publish, relabel

from store.adapters.manifests import entry_of
from store.errors import (
    ConflictError,
    GateError,
    InUseError,
    InvalidNameError,
    InvalidSettingError,
    NotAllowedError,
    NotFoundError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.records.events import AliasRule
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.listing import Search
from store.records.manifest import Card
from store.registry.api_keys import new_key
from store.registry.store import Store, Version

Publish = Callable[..., Version]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def anywhere(request: pytest.FixtureRequest, toy: Toy, tmp_path: Path) -> Iterator[Store]:
    """A store that holds the toy backbone, on each kind of catalogue."""
    url = request.getfixturevalue("database") if request.param == "PostgreSQL" else None
    with Store.open(tmp_path / "anywhere", create=True, catalogue=url, actor="ann@host") as opened:
        opened.add_backbone(toy.record, toy.weights)
        yield opened


@pytest.fixture
def release(store: Store, folder: Path, toy: Toy) -> Publish:
    """Publish one more version of `flowers`, of which so many of 100 are right at full depth and when cut."""
    count = itertools.count()

    def publish_one(*, full: int | None = None, cut: int | None = None, **options: object) -> Version:
        relabel(folder, "rose", "tulip", f"poppy {next(count)}")
        if cut is not None:
            certificate = Certificate(None if full is None else Accuracy(full, 100), Accuracy(cut, 100))
            card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "given"), certificate)
            (folder / "onetrunk.json").write_bytes(card.to_json())
        return publish(store, folder, **options)

    return publish_one


# Aliases


def test_latest_follows_every_publish_and_may_be_moved_by_hand_until_the_next(store: Store, release: Publish) -> None:
    release()
    release()
    store.set_alias("flowers", "latest", 1)
    assert store.resolve("flowers").version == 1
    release()
    assert store.resolve("flowers").version == 3


def test_latest_is_neither_removed_nor_given_a_rule(store: Store, release: Publish) -> None:
    release()
    with pytest.raises(InvalidNameError, match="move it, or remove the task"):
        store.remove_alias("flowers", "latest")
    with pytest.raises(InvalidSettingError, match="follows every publish"):
        store.set_rule(AliasRule("flowers", "latest", protected=True))


def test_a_protected_alias_moves_by_force_alone(store: Store, release: Publish) -> None:
    release(aliases=("prod",))
    release()
    store.set_rule(AliasRule("flowers", "prod", protected=True))
    attempts = (
        lambda: store.set_alias("flowers", "prod", 2),
        lambda: store.remove_alias("flowers", "prod"),
        lambda: release(aliases=("prod",)),
    )
    for attempt in attempts:
        with pytest.raises(NotAllowedError, match="alias 'prod' of flowers is protected: move it with --force"):
            attempt()
    assert store.aliases("flowers") == {"latest": 2, "prod": 1}
    store.set_alias("flowers", "prod", 2, force=True)
    assert store.aliases("flowers") == {"latest": 2, "prod": 2}


def test_publishing_again_what_a_protected_alias_names_changes_nothing(store: Store, folder: Path) -> None:
    first = publish(store, folder, aliases=("prod",))
    store.set_rule(AliasRule("flowers", "prod", protected=True))
    assert publish(store, folder, aliases=("prod",)) == first


def test_a_bound_on_what_the_cut_costs_refuses_a_version_of_which_that_is_not_known(
    store: Store, release: Publish
) -> None:
    release(cut=95)
    store.set_rule(AliasRule("flowers", "prod", min_accuracy=0.9))
    store.set_alias("flowers", "prod", 1)
    store.set_rule(AliasRule("flowers", "canary", max_drop=50))
    with pytest.raises(GateError, match=r"allows 50 points, what the cut of flowers:1 costs is not known.*--max-drop"):
        store.set_alias("flowers", "canary", 1)


@pytest.mark.parametrize(
    ("cut", "rule", "message"),
    [
        (89, {"max_drop": 0.5}, r"the cut of flowers(:1)? costs 1 points, alias 'prod' allows 0.5: cut less deep"),
        (89, {"min_accuracy": 0.9}, r"flowers(:1)? has accuracy 0.89, alias 'prod' asks for 0.9: tune it further"),
    ],
)
def test_a_gate_says_what_is_missing_and_force_does_not_open_it(
    store: Store, release: Publish, cut: int, rule: dict[str, float], message: str
) -> None:
    store.set_rule(AliasRule("flowers", "prod", **rule))
    release(full=90, cut=cut)
    with pytest.raises(GateError, match=message):
        store.set_alias("flowers", "prod", 1, force=True)
    with pytest.raises(GateError, match=message):
        release(full=90, cut=cut, aliases=("prod",))
    assert [version.version for version in store.versions("flowers")] == [1]


def test_a_gate_lets_through_what_just_meets_it(store: Store, release: Publish) -> None:
    # 100 * (0.9 - 0.89) is a little more than 1
    store.set_rule(AliasRule("flowers", "prod", max_drop=1.0, min_accuracy=0.89))
    assert release(full=90, cut=89, aliases=("prod",)).aliases == ("latest", "prod")


def test_a_gate_asks_for_a_certificate(store: Store, release: Publish) -> None:
    store.set_rule(AliasRule("flowers", "prod", max_drop=100))
    release()
    with pytest.raises(GateError, match="asks for a certificate, flowers:1 has none: make it with `onetrunk fit`"):
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


# Rollback and history


def test_a_second_rollback_goes_back_further(store: Store, release: Publish) -> None:
    for _ in range(3):
        release()
    assert [store.rollback("flowers").version, store.rollback("flowers").version] == [2, 1]
    with pytest.raises(VersionNotFoundError, match="no earlier version"):
        store.rollback("flowers")
    release()
    assert store.rollback("flowers").version == 1


def test_a_rollback_steps_over_removed_versions(store: Store, release: Publish) -> None:
    for _ in range(3):
        release()
    store.remove("flowers:2")
    assert store.rollback("flowers").version == 1


def test_a_rollback_obeys_the_rules_of_its_alias(store: Store, release: Publish) -> None:
    release(full=90, cut=60, aliases=("prod",))
    release(full=90, cut=90, aliases=("prod",))
    store.set_rule(AliasRule("flowers", "prod", protected=True, max_drop=1))
    with pytest.raises(NotAllowedError):
        store.rollback("flowers", "prod")
    with pytest.raises(GateError, match="the cut of flowers:1 costs 30 points"):
        store.rollback("flowers", "prod", force=True)


def test_the_history_tells_who_moved_what_when_and_from_where(anywhere: Store, folder: Path) -> None:
    start = datetime.now(UTC) - timedelta(milliseconds=1)
    publish(anywhere, folder)
    publish(anywhere, relabel(folder, "a", "b", "c"))
    anywhere.with_actor("bob@host").set_alias("flowers", "latest", 1)
    anywhere.rollback("flowers")
    moves = [event for event in anywhere.history("flowers") if event.alias == "latest"]
    assert [(event.actor, (event.details or {})["from"], event.version) for event in moves] == [
        ("ann@host", None, 1),
        ("ann@host", 1, 2),
        ("bob@host", 2, 1),
        ("ann@host", 1, 2),
    ]
    assert [(event.details or {}).get("rollback", False) for event in moves] == [False, False, False, True]
    assert all(start <= datetime.fromisoformat(event.at) <= datetime.now(UTC) for event in moves)


def test_a_tasks_history_is_not_that_of_a_backbone_of_the_same_name(store: Store, folder: Path) -> None:
    with pytest.raises(TaskNotFoundError):
        store.history("toy/vit")
    publish(store, folder, "toy/vit")
    assert [event.action for event in store.history("toy/vit")] == ["publish", "alias"]


def test_an_alias_is_known_at_any_time_also_where_its_version_is_gone(store: Store, release: Publish) -> None:
    first, _ = release(aliases=("prod",)), time.sleep(0.005)
    then, _ = datetime.now(UTC).isoformat(), time.sleep(0.005)
    second = release(aliases=("prod",))
    assert store.resolve("flowers@prod", at=then).digest == first.digest
    assert store.resolve("flowers@prod", at=datetime.now(UTC).isoformat()).digest == second.digest
    assert store.resolve("flowers:2", at=then).digest == second.digest
    store.remove("flowers:1")
    assert store.resolve("flowers@prod", at=then).removed_at is not None
    collect_garbage(store, grace_s=0)
    with pytest.raises(
        VersionNotFoundError, match=rf"named flowers:1 \(sha256:{first.digest}\) at .* removed and freed"
    ):
        store.resolve("flowers@prod", at=then)
    with pytest.raises(VersionNotFoundError, match="flowers@prod named nothing at 2020-01-01"):
        store.resolve("flowers@prod", at="2020-01-01")


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_is_refused(store: Store, release: Publish, at: str) -> None:
    release()
    with pytest.raises(InvalidSettingError, match="is not ISO 8601"):
        store.resolve("flowers", at=at)


# Tags and search


def tagged(store: Store, folder: Path) -> Store:
    for task in ("zoo", "Acme", "acme/cars", "acme/under_score", "other/cars"):
        publish(store, folder, task)
    store.set_tag("zoo", "stage", "live")
    store.set_tag("acme/cars", "stage", "live", version=1)
    store.set_tag("other/cars", "stage", "live")
    store.set_tag("other/cars", "stage", "test", version=1)
    return store


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(), ["Acme", "acme/cars", "acme/under_score", "other/cars", "zoo"]),
        (Search(text="CARS"), ["acme/cars", "other/cars"]),
        (Search(text="_"), ["acme/under_score"]),
        (Search(text="%"), []),
        (Search(text="!"), []),
        (Search(tenant="acme"), ["acme/cars", "acme/under_score"]),
        (Search(tenant=""), ["Acme", "zoo"]),
        (Search(tenant="acm"), []),
        (Search(tags={"stage": "live"}), ["acme/cars", "zoo"]),
        (Search(tags={"stage": "test"}), ["other/cars"]),
        (Search(tags={"stage": "live", "owner": "ann"}), []),
        (Search(alias="prod"), []),
        (Search(backbone="toy/vit", method="lora", text="z"), ["zoo"]),
        (Search(backbone="another"), []),
    ],
)
def test_a_search_finds_what_matches_all_of_it_and_pages_in_the_order_of_names(
    anywhere: Store, folder: Path, search: Search, expected: list[str]
) -> None:
    tagged(anywhere, folder)
    found, page = [], anywhere.search(search, limit=2)
    while page.next is not None:
        found += page.rows
        assert len(page.rows) == 2
        page = anywhere.search(search, limit=2, after=page.next)
    assert [row.task for row in (*found, *page.rows)] == expected


def test_a_versions_own_tag_stands_before_its_tasks(store: Store, release: Publish) -> None:
    release()
    release()
    store.set_tag("flowers", "stage", "live")
    store.set_tag("flowers", "stage", "test", version=2)
    assert [row.tags for row in store.list_versions("flowers")] == [{"stage": "live"}, {"stage": "test"}]
    store.set_tag("flowers", "stage", None, version=2)
    assert [row.tags for row in store.list_versions("flowers")] == [{"stage": "live"}, {"stage": "live"}]


def test_a_page_lists_the_version_that_the_alias_names(store: Store, release: Publish) -> None:
    release(aliases=("prod",))
    release()
    assert [row.version for row in store.search().rows] == [2]
    assert [row.version for row in store.search(Search(alias="prod")).rows] == [1]
    with pytest.raises(InvalidSettingError, match="limit 0"):
        store.search(limit=0)


@pytest.mark.parametrize("value", ["", "x" * 301, "a\nb", "a\x00b"])
def test_a_tag_is_a_short_line(store: Store, release: Publish, value: str) -> None:
    release()
    with pytest.raises(InvalidNameError, match="1 to 300 printable characters"):
        store.set_tag("flowers", "stage", value)


# Removal


def test_what_an_alias_names_is_not_removed_and_the_message_says_which(store: Store, release: Publish) -> None:
    release(aliases=("prod",))
    release()
    with pytest.raises(
        InUseError, match=r"flowers:1 is named by alias prod: .*`onetrunk alias set flowers prod VERSION`"
    ):
        store.remove("flowers:1")
    with pytest.raises(InUseError, match="prod"):
        store.remove("flowers", all_versions=True)
    with pytest.raises(InvalidNameError, match="--all-versions for the whole task"):
        store.remove("flowers")
    assert [version.version for version in store.versions("flowers")] == [1, 2]


def test_what_a_lease_holds_is_not_removed_until_it_ends(store: Store, release: Publish) -> None:
    digest = release().digest
    release()
    lease = store.lease([digest], holder="replica 7", ttl_s=60)
    with pytest.raises(InUseError, match="flowers:1 is in use by replica 7"):
        store.remove("flowers:1")
    store.lease([digest], holder="replica 7", ttl_s=0.02, lease_id=lease)
    time.sleep(0.03)
    assert store.remove("flowers:1").versions == ("flowers:1",)
    with pytest.raises(VersionNotFoundError, match="was removed"):
        store.lease([digest], holder="replica 7", ttl_s=60, lease_id=lease)


def test_a_publish_that_died_holds_its_blobs_and_no_version(store: Store, release: Publish) -> None:
    digest = release().digest
    release()
    store.catalogue.lease("died", [digest], holder="publish", expires_at=time.time() + 60)
    assert store.remove("flowers:1").versions == ("flowers:1",)
    assert digest not in collect_garbage(store, grace_s=0).freed


def test_a_removal_is_undone_until_it_is_collected(store: Store, release: Publish) -> None:
    release()
    release()
    store.set_tag("flowers", "stage", "live", version=1)
    store.remove("flowers:1")
    with pytest.raises(VersionNotFoundError):
        store.resolve("flowers:1")
    assert [row.version for row in store.list_versions("flowers", removed=True)] == [1, 2]
    assert store.restore("flowers", 1) == [1]
    assert store.tags("flowers", 1) == {"stage": "live"}
    store.remove("flowers:1")
    collect_garbage(store, grace_s=0)
    with pytest.raises(
        VersionNotFoundError, match="nothing to restore: it was not removed, or `onetrunk gc` has freed"
    ):
        store.restore("flowers", 1)


def test_a_task_is_removed_as_a_whole_and_comes_back_with_latest(store: Store, release: Publish) -> None:
    release()
    release()
    store.set_alias("flowers", "latest", 1)
    assert store.remove("flowers", all_versions=True).versions == ("flowers:1", "flowers:2")
    with pytest.raises(TaskNotFoundError):
        store.resolve("flowers")
    assert store.search().rows == ()
    assert store.restore("flowers") == [1, 2]
    assert store.resolve("flowers").version == 2


def test_a_number_is_never_given_twice(store: Store, release: Publish) -> None:
    release()
    store.remove("flowers", all_versions=True)
    collect_garbage(store, grace_s=0)
    assert release().version == 2


def test_the_bytes_of_removals_in_a_row_add_up_to_what_a_collection_frees(store: Store, release: Publish) -> None:
    # The first two share all but class names and manifest, and the third keeps what they share alive.
    for _ in range(3):
        release()
    shared = store.resolve("flowers").manifest.adapter.weights
    said = [store.remove(f"flowers:{number}").freed_nbytes for number in (1, 2)]
    said.append(store.remove("flowers", all_versions=True).freed_nbytes)
    assert said[2] > shared.nbytes > max(said[:2])
    assert (
        sum(said)
        == collect_garbage(store, grace_s=0, dry_run=True).freed_nbytes
        == collect_garbage(store, grace_s=0).freed_nbytes
    )


def test_a_dry_removal_says_the_same_and_changes_nothing(store: Store, release: Publish) -> None:
    release()
    release()
    foreseen, events = store.remove("flowers:1", dry_run=True), store.history("flowers")
    assert store.history("flowers") == events
    assert store.remove("flowers:1") == foreseen


def test_a_version_whose_manifest_is_damaged_can_still_be_removed(store: Store, release: Publish) -> None:
    damaged = release()
    release()
    Path(store.blobs.locate(damaged.manifest_blob)).unlink()
    assert store.remove("flowers:1").versions == ("flowers:1",)
    collect_garbage(store, grace_s=0)
    assert verify(store) == []


# Backbones and keys


def test_a_backbone_in_use_is_not_removed_until_its_versions_are_collected(store: Store, release: Publish) -> None:
    release()
    for _ in range(2):
        with pytest.raises(
            InUseError, match="1 versions stand on backbone 'toy/vit', removed ones until `onetrunk gc`"
        ):
            store.remove_backbone("toy/vit")
        if store.queries.has_task("flowers"):
            store.remove("flowers", all_versions=True)
    collect_garbage(store, grace_s=0)
    store.remove_backbone("toy/vit")
    assert collect_garbage(store, grace_s=0).freed_nbytes > 100_000
    with pytest.raises(NotFoundError, match="no backbone 'toy/vit'"):
        store.remove_backbone("toy/vit")


def test_adding_a_backbone_again_mends_it(store: Store, toy: Toy) -> None:
    row = store.queries.backbones()[0]
    damaged = [Blob(row.record, row.record_nbytes), Blob.of(toy.weights)]
    for blob in damaged:
        Path(store.blobs.locate(blob)).unlink()
    assert verify(store) != []
    events = list(store.queries.history())
    store.add_backbone(toy.record, toy.weights)
    assert verify(store) == []
    assert list(store.queries.history()) == events


def test_a_backbone_seen_by_two_at_once_keeps_the_weights_that_one_of_them_brings(store: Store, toy: Toy) -> None:
    bare = Blob.of(b"the record without weights, from one who saw no backbone there")
    assert not store.catalogue.put_backbone(toy.record, bare, seen=None)
    assert store.backbone("toy/vit").weights == Blob.of(toy.weights)


def test_a_backbone_is_not_named_like_a_fingerprint(store: Store, toy: Toy) -> None:
    other = dataclasses.replace(toy.record.id, fingerprint="ab" * 32)
    record = dataclasses.replace(toy.record, name=toy.record.id.fingerprint, id=other)
    with pytest.raises(InvalidNameError, match="looks like a fingerprint"):
        store.add_backbone(record, None)


def test_a_publish_onto_a_backbone_that_has_just_been_removed_says_so(store: Store, release: Publish) -> None:
    version = release()
    entry = dataclasses.replace(entry_of(version.manifest, version.manifest_blob), backbone="ab" * 32)
    with pytest.raises(NotFoundError, match=r"backbone abab.* of cars has just been removed: add it again"):
        store.catalogue.publish("cars", entry, aliases=("latest",))


def test_an_api_key_is_kept_once_and_revoked_once(anywhere: Store) -> None:
    key, _ = new_key("acme", ("read",))
    kept = anywhere.put_key(key)
    with pytest.raises(ConflictError, match="is there already"):
        anywhere.put_key(key)
    anywhere.revoke_key(key.id)
    revoked = anywhere.api_key(key.id)
    anywhere.revoke_key(key.id)
    assert anywhere.api_keys("acme") == [revoked]
    assert revoked == dataclasses.replace(kept, revoked_at=revoked.revoked_at if revoked else None)
    with pytest.raises(NotFoundError, match="no API key"):
        anywhere.revoke_key("unknown")


def test_a_publish_that_fails_holds_nothing(store: Store, folder: Path) -> None:
    labels = Blob.of((folder / "classes.txt").read_bytes())
    Path(store.blobs.locate(labels)).mkdir(parents=True)
    with pytest.raises(OSError, match="cannot be written"):
        publish(store, folder)
    assert store.leases() == []
    with closing(sqlite3.connect(store.root / "catalogue.sqlite")) as connection:
        assert connection.execute("select count(*) from holds").fetchone() == (0,)
