"""A thousand backbones that are almost the right one: none is added, none is loaded, none serves a task."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from support.mutant_backbones import Mutant, make_mutants
from support.oracle import png
from support.populated_store import OTHER, other_toy
from support.toy_backbone import BLOCKS, Toy, publish

from serving.runtime.predictor import Predictor
from store.errors import BackboneMismatchError, FormatError
from store.maintenance.verify import verify
from store.records.backbone import BackboneRecord
from store.records.blob import canonical_json
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.registry.store import Store
from store.weights.backbones import open_backbone, read_backbone

IMAGE = png(torch.zeros(32, 32, 3, dtype=torch.uint8))


@pytest.fixture(scope="module")
def mutants(toy: Toy) -> list[Mutant]:
    return make_mutants(toy)


def test_there_are_a_thousand_of_them_and_more(mutants: list[Mutant]) -> None:
    assert len({(canonical_json(dataclasses.asdict(m.record)), m.weights) for m in mutants}) == len(mutants) >= 1500


def test_none_is_added_to_a_store(mutants: list[Mutant], toy: Toy, tmp_path: Path) -> None:
    refused = 0
    with Store.open(tmp_path / "store", create=True) as store:
        for mutant in mutants:
            with pytest.raises((BackboneMismatchError, FormatError)) as caught:
                store.add_backbone(mutant.record, mutant.weights)
            assert "\n" not in str(caught.value), mutant.what
            refused += 1
        assert store.backbones() == []
        assert not any(store.root.glob("blobs/sha256/*/*"))
        store.add_backbone(toy.record, toy.weights)
    assert refused == len(mutants)


def test_none_passes_for_one_that_the_store_has(mutants: list[Mutant], store: Store) -> None:
    before = sorted(store.root.glob("blobs/sha256/*/*"))
    for mutant in mutants[::10]:
        with pytest.raises((BackboneMismatchError, FormatError)):
            store.add_backbone(mutant.record, mutant.weights)
    assert sorted(store.root.glob("blobs/sha256/*/*")) == before


def test_none_is_loaded_from_bytes_whose_digest_is_right(mutants: list[Mutant], store: Store) -> None:
    refused = 0
    for mutant in mutants:
        with pytest.raises((BackboneMismatchError, FormatError)):
            read_backbone(mutant.record, mutant.weights)
        refused += 1
    for mutant in mutants[::25]:
        blob = store.blobs.put(mutant.weights)
        with pytest.raises((BackboneMismatchError, FormatError)):
            open_backbone(store, dataclasses.replace(mutant.record, weights=blob))
    assert refused == len(mutants) >= 1000


def test_a_file_that_torch_reads_is_always_told_to_be_the_wrong_one(mutants: list[Mutant]) -> None:
    for mutant in mutants:
        try:
            load(mutant.weights)
        except SafetensorError:
            continue
        with pytest.raises((BackboneMismatchError, FormatError)) as caught:
            read_backbone(mutant.record, mutant.weights)
        assert isinstance(caught.value, BackboneMismatchError) or "dtype" in str(caught.value), mutant.what


def replace_record(store: Store, record: BackboneRecord, weights: bytes) -> None:
    """Put another record, or other weights, in the place of a backbone's own, every digest right."""
    kept = dataclasses.replace(record, weights=store.blobs.put(weights))
    blob = store.blobs.put(canonical_json(dataclasses.asdict(kept)))
    with sqlite3.connect(store.root / "catalogue.sqlite") as connection:
        connection.execute("update backbones set record = ?, record_nbytes = ?", (blob.sha256, blob.nbytes))
    connection.close()


def test_none_serves_a_task_even_where_every_digest_was_made_right(
    mutants: list[Mutant], store: Store, folder: Path, toy: Toy
) -> None:
    publish(store, folder)
    chosen = [m for m in mutants if m.record.id.fingerprint == toy.record.id.fingerprint][5::60]
    assert len(chosen) > 15
    for mutant in chosen:
        replace_record(store, mutant.record, mutant.weights)
        assert verify(store, metadata_only=True) != []
        with pytest.raises((BackboneMismatchError, FormatError)):
            Predictor(store)
    replace_record(store, toy.record, toy.weights)
    with Predictor(store) as service:
        assert service.predict("flowers", IMAGE).task == "flowers"


@pytest.fixture
def two(store: Store, toy: Toy) -> Toy:
    """The store has a second backbone, of the same shapes, and this is it."""
    other = other_toy(toy)
    store.add_backbone(other.record, other.weights)
    return other


def write_card(folder: Path, fingerprint: str, blocks: int = BLOCKS) -> None:
    (folder / "onetrunk.json").write_bytes(Card(fingerprint, PruneIndex(2, blocks, "given")).to_json())


def test_a_task_made_on_another_backbone_of_the_same_shapes_is_not_published(
    store: Store, two: Toy, folder: Path
) -> None:
    write_card(folder, two.record.id.fingerprint)
    with pytest.raises(BackboneMismatchError, match=f"made on backbone {two.record.id.fingerprint}"):
        publish(store, folder)
    assert store.versions() == []
    assert store.publish("flowers", folder).manifest.backbone == two.record.id.fingerprint


def test_a_task_of_another_backbone_of_the_same_shapes_is_not_served(store: Store, two: Toy, folder: Path) -> None:
    assert publish(store, folder, backbone=OTHER).manifest.backbone == two.record.id.fingerprint
    publish(store, folder, "cars")
    with Predictor(store, backbone="toy/vit") as service:
        with pytest.raises(BackboneMismatchError, match=f"flowers:1 uses backbone '{OTHER}'.*'toy/vit'"):
            service.predict("flowers", IMAGE)
        assert service.predict("cars", IMAGE).task == "cars"
    with Predictor(store, backbone=OTHER) as service:
        assert service.predict("flowers", IMAGE).task == "flowers"


def test_a_catalogue_that_says_another_backbone_than_the_manifest_does_not_serve_on_it(
    store: Store, two: Toy, folder: Path
) -> None:
    assert publish(store, folder, backbone=OTHER).manifest.backbone == two.record.id.fingerprint
    with sqlite3.connect(store.root / "catalogue.sqlite") as connection:
        connection.execute("update versions set backbone = (select fingerprint from backbones where name = 'toy/vit')")
    connection.close()
    with Predictor(store, backbone="toy/vit") as service, pytest.raises(BackboneMismatchError, match=OTHER):
        service.predict("flowers", IMAGE)
    assert [finding.used_by for finding in verify(store, metadata_only=True)] != []
