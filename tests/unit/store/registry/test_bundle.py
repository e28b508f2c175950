from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from support.broken_bundles import bundle_of, parts, state, whole
from support.destinations import answers, empty_store
from support.toy_backbone import Toy, publish, relabel

from store.errors import (
    ConflictError,
    GateError,
    InvalidNameError,
    InvalidSettingError,
)
from store.maintenance.verify import verify
from store.records.events import AliasRule
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.records.manifest import Card
from store.registry.bundle import import_bundle
from store.registry.store import Store

INDEX = PruneIndex(2, 4, "tsne-silhouette", 0.3, 0.12, (None, 0.2, 0.3, 0.4), 0, 400)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """A store that knows no backbone."""
    return empty_store(tmp_path / "other")


def publish_two(store: Store, folder: Path) -> None:
    publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"), aliases=("prod",))


def test_a_version_has_the_same_digest_where_it_is_brought(store: Store, folder: Path, other: Store) -> None:
    version = publish(store, folder)
    (brought,) = import_bundle(other, bundle_of(store, "flowers"))
    assert (brought.digest, brought.manifest, brought.number) == (version.digest, version.manifest, 1)
    assert other.backbones() == store.backbones()
    assert verify(other) == []


def test_all_that_a_card_says_comes_along(store: Store, folder: Path, toy: Toy, other: Store) -> None:
    lineage = Lineage("flowers", "ab" * 32, 100, 50, {"lr": 0.001, "x": [1, None, "ü"]}, {"peft": "0.21.2"}, "c0", "p")
    certificate = Certificate(Accuracy(45, 50), Accuracy(44, 50), Accuracy(40, 50))
    (folder / "onetrunk.json").write_bytes(Card(toy.record.id.fingerprint, INDEX, certificate, lineage).to_json())
    version = store.publish("flowers", folder)
    (brought,) = import_bundle(other, bundle_of(store, "flowers"))
    assert (brought.digest, brought.manifest.lineage) == (version.digest, lineage)


def test_a_version_of_the_first_manifest_format_keeps_its_digest(
    store: Store, folder: Path, toy: Toy, other: Store
) -> None:
    card = Card(toy.record.id.fingerprint, INDEX, lineage=Lineage("flowers", "ab" * 32, 100, 50), format=1)
    (folder / "onetrunk.json").write_bytes(card.to_json())
    version = store.publish("flowers", folder)
    (brought,) = import_bundle(other, bundle_of(store, "flowers"))
    assert (brought.digest, brought.manifest.format) == (version.digest, 1)
    assert b"code_commit" not in card.to_json() + version.manifest.to_json()


def test_what_is_brought_answers_as_the_original_folder(
    store: Store, folder: Path, toy: Toy, other: Store, tmp_path: Path
) -> None:
    publish(store, folder)
    import_bundle(other, bundle_of(store, "flowers"))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    out = other.export("flowers", tmp_path / "out")
    assert torch.equal(answers(out, toy, 2, images), answers(folder, toy, 2, images))


def test_a_second_import_changes_nothing(store: Store, folder: Path, other: Store) -> None:
    publish_two(store, folder)
    bundle = bundle_of(store, "flowers:1", "flowers:2")
    first = import_bundle(other, bundle, aliases=("prod",))
    before = state(other)
    assert import_bundle(other, bundle, aliases=("prod",)) == first
    assert state(other) == before


def test_an_old_bundle_does_not_move_latest_back(store: Store, folder: Path) -> None:
    publish(store, folder)
    bundle = bundle_of(store, "flowers")
    publish(store, relabel(folder, "a", "b", "c"))
    import_bundle(store, bundle)
    assert store.aliases("flowers") == {"latest": 2}


def test_versions_come_in_their_order_and_aliases_point_at_the_last(store: Store, folder: Path, other: Store) -> None:
    publish_two(store, folder)
    publish(store, folder, "cars")
    bundle = bundle_of(store, "flowers@prod", "cars", "flowers:1", "flowers:2")
    brought = import_bundle(other, bundle, aliases=("staging",))
    assert [(version.task, version.number) for version in brought] == [("cars", 1), ("flowers", 1), ("flowers", 2)]
    assert other.aliases("flowers") == {"latest": 2, "staging": 2}
    assert other.aliases("cars") == {"latest": 1, "staging": 1}


def test_under_another_name_every_blob_is_the_same(store: Store, folder: Path, other: Store) -> None:
    version = publish(store, folder)
    (brought,) = import_bundle(other, bundle_of(store, "flowers"), task="acme/tulips")
    assert (brought.task, brought.manifest.blobs) == ("acme/tulips", version.manifest.blobs)
    assert brought.digest != version.digest


def test_a_tenant_takes_the_place_of_the_one_that_was(store: Store, folder: Path, other: Store) -> None:
    publish(store, folder, "acme/flowers")
    publish(store, folder, "cars")
    brought = import_bundle(other, bundle_of(store, "acme/flowers", "cars"), tenant="globex")
    assert [version.task for version in brought] == ["globex/flowers", "globex/cars"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": "one"}, InvalidSettingError),
        ({"tenant": "globex"}, ConflictError),
        ({"tenant": "../x"}, InvalidNameError),
        ({"tenant": "a/b"}, InvalidNameError),
        ({"aliases": ("a b",)}, InvalidNameError),
    ],
    ids=str,
)
def test_names_that_cannot_be_given_are_refused_before_anything_is_written(
    store: Store, folder: Path, other: Store, options: dict[str, object], error: type[Exception]
) -> None:
    publish(store, folder, "acme/flowers")
    publish(store, folder, "umbrella/flowers")
    before = state(other)
    with pytest.raises(error):
        import_bundle(other, bundle_of(store, "acme/flowers", "umbrella/flowers"), **options)
    assert state(other) == before


def test_equal_versions_give_equal_bytes(store: Store, folder: Path) -> None:
    publish_two(store, folder)
    bundles = {bundle_of(store, *refs).getvalue() for refs in (("flowers:1", "flowers:2"), ("flowers", "flowers:1"))}
    assert len(bundles) == 1


def test_any_tar_reads_it(store: Store, folder: Path) -> None:
    version = publish(store, folder)
    bundle = bundle_of(store, "flowers").getvalue()
    index, *blobs = parts(bundle).items()
    assert json.loads(index[1])["versions"][0]["manifest"]["sha256"] == version.digest
    assert [name for name, _ in blobs] == sorted(name for name, _ in blobs)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        assert {(i.mode, i.uid, i.gid, i.mtime, i.uname, i.isreg()) for i in archive} == {(0o644, 0, 0, 0, "", True)}
    assert whole(parts(bundle)) == bundle


def test_an_alias_that_asks_for_a_certificate_is_refused_one_version_at_a_time(
    store: Store, folder: Path, other: Store
) -> None:
    publish(store, folder)
    other.set_rule(AliasRule("*", "prod", min_accuracy=0.9))
    with pytest.raises(GateError):
        import_bundle(other, bundle_of(store, "flowers"), aliases=("prod",))
    assert other.versions() == []


def test_a_removed_version_is_restored_by_bringing_it_again(store: Store, folder: Path) -> None:
    publish_two(store, folder)
    bundle = bundle_of(store, "flowers:1")
    store.remove("flowers:1")
    assert [version.number for version in import_bundle(store, bundle)] == [1]
