"""What the registry promises of backbones: removal, repair, names, and two writers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from support.toy_backbone import Toy

from store.adapters.manifests import entry_of
from store.errors import (
    InUseError,
    InvalidNameError,
    NotFoundError,
)
from store.maintenance.garbage import collect_garbage
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.registry.store import Store, Version


def test_a_backbone_in_use_is_not_removed_until_its_versions_are_collected(
    store: Store, release: Callable[..., Version]
) -> None:
    release()
    for _ in range(2):
        with pytest.raises(
            InUseError, match="1 version uses backbone 'toy/vit', counting removed ones until `collect_garbage"
        ):
            store.remove_backbone("toy/vit")
        if store.queries.has_task("flowers"):
            store.remove("flowers", all_versions=True)
    collect_garbage(store, grace_s=0)
    store.remove_backbone("toy/vit")
    assert collect_garbage(store, grace_s=0).freed_nbytes > 100_000
    with pytest.raises(NotFoundError, match="no backbone 'toy/vit'"):
        store.remove_backbone("toy/vit")


def test_adding_a_backbone_again_repairs_it(store: Store, toy: Toy) -> None:
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


def test_a_publish_onto_a_backbone_that_has_just_been_removed_says_so(
    store: Store, release: Callable[..., Version]
) -> None:
    version = release()
    entry = dataclasses.replace(entry_of(version.manifest, version.manifest_blob), backbone="ab" * 32)
    with pytest.raises(NotFoundError, match=r"backbone abab.* of cars has just been removed: add it again"):
        store.catalogue.publish("cars", entry, aliases=("latest",))
