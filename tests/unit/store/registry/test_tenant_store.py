from __future__ import annotations

import io
import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from support.tenants import ALL, VERBS, as_tenant, listening
from support.toy_backbone import publish, relabel

from store.adapters.checkpoint import read_checkpoint
from store.errors import (
    FormatError,
    IntegrityError,
    InUseError,
    NotAllowedError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.verify import verify
from store.records.events import AliasRule
from store.records.listing import Search
from store.registry.bundle import export_bundle
from store.registry.bundle_archive import blob_name, read_member, read_members, write_end, write_member
from store.registry.publish import PublishOptions
from store.registry.store import Store


@pytest.fixture
def shared(store: Store, folder: Path) -> Store:
    """Tenants acme and globex with the same bytes, and a task of the operator's."""
    for task in ("acme/cars", "globex/cars", "globex/secret", "flowers"):
        publish(store, folder, task)
    return store


def test_a_tenant_lists_counts_and_searches_its_own_tasks_alone(shared: Store, folder: Path) -> None:
    for task in ("Acme/cars", "acme-eu/cars", "acm_/cars", "acm/cars"):
        publish(shared, folder, task)
    acme = as_tenant(shared, "acme")
    assert [row.task for row in acme.search(ALL).rows] == ["acme/cars"]
    for text in ("cars", "%", "_", "globex", "acme", ""):
        assert {row.task for row in acme.search(Search(text=text)).rows} <= {"acme/cars"}
    assert acme.search(Search(tenant="globex")).rows == acme.search(ALL).rows
    assert acme.search(ALL, after="acme/cars").rows == ()
    assert [row.task for row in acme.search(ALL, after="a", limit=1).rows] == ["acme/cars"]
    assert acme.search(ALL, limit=1).next is None
    assert [row.task for row in as_tenant(shared, "acm_").search(ALL).rows] == ["acm_/cars"]
    assert len(as_tenant(shared, None).search(ALL).rows) == 8


def test_what_a_tenant_lacks_it_is_helped_to_find_among_its_own(shared: Store) -> None:
    acme = as_tenant(shared, "acme")
    with pytest.raises(TaskNotFoundError, match="did you mean 'acme/cars'") as near:
        acme.resolve("acme/card")
    with pytest.raises(TaskNotFoundError) as far:
        acme.resolve("acme/secret")
    with pytest.raises(VersionNotFoundError, match="has version 1 and alias latest"):
        acme.resolve(f"acme/cars@sha256:{shared.resolve('globex/cars').digest}")
    for error in (near, far):
        assert "globex" not in str(error.value)
        assert str(shared.root) not in str(error.value)


def test_nothing_that_a_tenant_asks_walks_a_table_that_others_fill(shared: Store) -> None:
    plans: dict[str, list[str]] = {}
    queries = shared.queries

    def explain(sql: str, parameters: dict[str, object]) -> None:
        with queries.connect() as select:
            plans[sql] = [str(row[3]) for row in select(f"EXPLAIN QUERY PLAN {sql}", **parameters)]

    acme = as_tenant(shared, "acme")
    shared.queries = listening(queries, explain)
    for search in (ALL, Search(text="c"), Search(alias="prod"), Search(tags={"a": "b"}), Search(method="lora")):
        acme.search(search, after="acme/a")
    for name in ("resolve", "list_versions", "aliases", "rules", "tags", "history", "export_bundle"):
        VERBS[name][1](acme, "acme/cars")
    acme.remove("acme/cars", all_versions=True, dry_run=True)
    with pytest.raises(TaskNotFoundError):
        acme.resolve("acme/card")
    walks = {step for steps in plans.values() for step in steps if step.startswith("SCAN")}
    assert len(plans) > 10
    assert walks <= {"SCAN b"}, plans  # backbones, which all share


def test_a_tenants_history_is_numbered_within_the_task_and_tells_of_nothing_else(shared: Store, folder: Path) -> None:
    acme, globex = as_tenant(shared, "acme"), as_tenant(shared, "globex")
    for number in range(5):
        globex.set_tag("globex/cars", "n", str(number))
    publish(shared, relabel(folder, "a", "b", "c"), "acme/cars")
    acme.set_alias("acme/cars", "prod", 1)
    events = acme.history("acme/cars")
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.action for event in events] == ["publish", "alias", "publish", "alias", "alias"]
    assert [event.actor for event in events] == ["operator"] * 4 + [f"key {acme.key.id}"]
    told = json.dumps([asdict(event) for event in events])
    for event in shared.history("acme/cars"):
        assert event.previous not in told
        assert event.sha256 not in told


def test_a_tenant_is_told_the_bytes_that_no_version_of_its_own_names_whoever_else_has_them(
    shared: Store, folder: Path
) -> None:
    acme, alone = as_tenant(shared, "acme"), shared.resolve("acme/cars").nbytes
    assert acme.remove("acme/cars", all_versions=True, dry_run=True).freed_nbytes == alone
    assert shared.remove("acme/cars", all_versions=True, dry_run=True).freed_nbytes < alone
    publish(shared, folder, "acme/vans")
    assert acme.remove("acme/cars", all_versions=True).freed_nbytes < alone
    assert acme.restore("acme/cars") == [1]


def test_a_publish_writes_the_same_files_whether_or_not_another_tenant_has_the_bytes(
    shared: Store, folder: Path
) -> None:
    blobs = shared.resolve("globex/cars").manifest.blobs
    paths = [Path(shared.blobs.locate(blob)) for blob in blobs]
    for path in paths:
        os.utime(path, (0, 0))
    version = as_tenant(shared, "acme").publish_checkpoint(
        "acme/vans", read_checkpoint(folder), where="test", options=PublishOptions(backbone="toy/vit", depth=2)
    )
    assert version.manifest.blobs == blobs
    assert all(path.stat().st_mtime > 0 for path in paths)
    assert verify(shared) == []


def test_damage_to_what_two_tenants_share_is_told_without_the_other_or_the_place(shared: Store) -> None:
    blob = shared.resolve("acme/cars").manifest.adapter.weights
    path = Path(shared.blobs.locate(blob))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    acme = as_tenant(shared, "acme", "read")
    with pytest.raises(IntegrityError, match="ask its operator") as told, acme.authorized("read", "acme/cars") as store:
        store.read(blob)
    assert not re.search(rf"globex|{blob.sha256[:16]}|{re.escape(str(shared.root))}", str(told.value))
    operator = as_tenant(shared, None, "read")
    with pytest.raises(IntegrityError, match=str(shared.root)), operator.authorized("read", "acme/cars") as store:
        store.read(blob)


def test_a_version_in_use_is_not_removed_and_which_machine_uses_it_is_not_told(shared: Store, folder: Path) -> None:
    publish(shared, relabel(folder, "a", "b", "c"), "acme/cars")
    shared.lease([shared.resolve("acme/cars:1").digest], holder="server gpu-7.internal:31", ttl_s=60)
    with pytest.raises(InUseError, match="in use by a server") as told:
        as_tenant(shared, "acme").remove("acme/cars:1")
    assert "gpu-7" not in str(told.value)


def test_a_protected_alias_moves_for_an_admin_alone_and_a_tenant_protects_its_own(shared: Store) -> None:
    admin, promoter = as_tenant(shared, "acme"), as_tenant(shared, "acme", "promote")
    admin.set_rule(AliasRule("acme/*", "prod", protected=True))
    with pytest.raises(NotAllowedError, match="protected"):
        promoter.set_alias("acme/cars", "prod", 1)
    admin.set_alias("acme/cars", "prod", 1, force=True)
    assert promoter.key.scopes == ("promote",)
    for task in ("*", "globex/*", "globex/cars"):
        with pytest.raises(TaskNotFoundError, match="'acme/…'"):
            admin.set_rule(AliasRule(task, "prod", protected=True))
    as_tenant(shared, None).set_rule(AliasRule("*", "gold", protected=True))
    assert {rule.task for rule in admin.rules("acme/cars")} == {"acme/*", "*"}


def test_a_bundle_that_names_anothers_bytes_without_bringing_them_is_refused(shared: Store, folder: Path) -> None:
    publish(shared, relabel(folder, "a", "b", "c"), "globex/cars")
    bundle = io.BytesIO()
    export_bundle(shared, ["globex/cars:2"], bundle, with_backbone=False)
    labels = shared.resolve("globex/cars:2").manifest.head.labels
    members = {member.name: read_member(bundle, member, "test") for member in read_members(bundle, "test")}
    without = io.BytesIO()
    for name, data in members.items():
        if name != blob_name(labels.sha256):
            write_member(without, name, data)
    write_end(without)
    acme = as_tenant(shared, "acme")
    with pytest.raises(FormatError, match="is missing"):
        acme.import_bundle("acme/stolen", without)
    assert [version.task for version in acme.import_bundle("acme/given", bundle)] == ["acme/given"]
