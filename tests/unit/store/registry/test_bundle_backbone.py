from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.broken_bundles import bundle_of, state
from support.destinations import empty_store
from support.toy_backbone import Toy, publish

from store.errors import BackboneNotFoundError
from store.registry.bundle import import_bundle
from store.registry.store import Store


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """A store that knows no backbone."""
    return empty_store(tmp_path / "other")


def test_without_the_backbone_it_is_small_and_needs_a_store_that_has_it(
    store: Store, folder: Path, toy: Toy, other: Store
) -> None:
    version = publish(store, folder)
    bundle = bundle_of(store, "flowers", with_backbone=False)
    assert len(bundle.getvalue()) < len(toy.weights)
    with pytest.raises(
        BackboneNotFoundError, match=r"with `adopt_backbone\(store, name\)` with name 'vit_tiny_patch16_224'"
    ):
        import_bundle(other, bundle)
    other.add_backbone(toy.record, toy.weights)
    assert import_bundle(other, bundle)[0].digest == version.digest


def test_a_backbone_that_its_store_keeps_elsewhere_stays_there(folder: Path, toy: Toy, other: Store) -> None:
    other.add_backbone(toy.record, None)
    publish(other, folder)
    assert len(bundle_of(other, "flowers").getvalue()) < len(toy.weights)


def test_weights_that_the_store_lacked_are_kept(store: Store, folder: Path, toy: Toy, other: Store) -> None:
    publish(store, folder)
    other.add_backbone(toy.record, None)
    import_bundle(other, bundle_of(store, "flowers"))
    assert other.backbones() == store.backbones()


def test_a_caller_may_refuse_new_backbones(store: Store, folder: Path, other: Store) -> None:
    publish(store, folder)
    before = state(other)
    with pytest.raises(BackboneNotFoundError):
        import_bundle(other, bundle_of(store, "flowers"), add_backbone=False)
    assert state(other) == before


def test_a_backbone_of_a_name_that_is_taken_gets_one_of_its_own(
    store: Store, folder: Path, toy: Toy, other: Store
) -> None:
    publish(store, folder)
    other.add_backbone(replace(toy.record, id=replace(toy.record.id, fingerprint="0" * 64)), None)
    (brought,) = import_bundle(other, bundle_of(store, "flowers"))
    assert brought.manifest.backbone_name == f"toy/vit-{toy.record.id.fingerprint[:12]}"
    assert import_bundle(other, bundle_of(store, "flowers")) == [brought]
