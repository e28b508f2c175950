from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.toy_backbone import Toy, publish, relabel

from store.errors import (
    BackboneMismatchError,
    BackboneNotFoundError,
    ConflictError,
    InvalidNameError,
    TaskNotFoundError,
    VersionNotFoundError,
)
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store


def card(toy: Toy) -> Card:
    index = PruneIndex(2, 4, "tsne-silhouette", 0.3, 0.12, (None, 0.2, 0.3, 0.4), 0, 400)
    lineage = Lineage("flowers", "ab" * 32, 100, 50, {"epochs": 3, "lr": 0.001}, {"peft": "0.21.2"})
    return Card(toy.record.id.fingerprint, index, Certificate(Accuracy(45, 50), Accuracy(44, 50)), lineage)


def test_a_published_folder_is_read_back_byte_for_byte(store: Store, folder: Path) -> None:
    adapter = publish(store, folder).manifest.adapter
    assert store.read(adapter.weights) == (folder / "adapter_model.safetensors").read_bytes()
    assert store.read(adapter.config) == (folder / "adapter_config.json").read_bytes()


def test_a_version_describes_the_task(store: Store, folder: Path) -> None:
    version = publish(store, folder)
    manifest = version.manifest
    assert (version.task, version.number, version.aliases) == ("flowers", 1, ("latest",))
    assert (manifest.depth, manifest.adapter.method, manifest.adapter.rank, manifest.head.classes) == (2, "lora", 4, 3)
    assert manifest.adapter.modules[0] == "blocks.0.attn.proj"
    assert len(manifest.adapter.modules) == 8


def test_the_card_goes_into_the_manifest_and_comes_out_again(store: Store, folder: Path, toy: Toy) -> None:
    (folder / "onetrunk.json").write_bytes(card(toy).to_json())
    manifest = store.publish("flowers", folder).manifest
    assert (manifest.prune_index, manifest.certificate) == (card(toy).prune_index, card(toy).certificate)
    assert manifest.lineage == card(toy).lineage


def test_an_exported_folder_published_again_is_the_same_version(store: Store, folder: Path, tmp_path: Path) -> None:
    first = publish(store, folder)
    again = store.publish("flowers", store.export("flowers", tmp_path / "out"))
    assert again == first


def test_export_gives_the_files_of_the_folder(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    out = store.export("flowers", tmp_path / "out")
    names = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt"}
    assert {path.name for path in out.iterdir()} == names | {"onetrunk.json"}
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_export_refuses_a_folder_with_files(store: Store, folder: Path) -> None:
    publish(store, folder)
    with pytest.raises(ConflictError, match="not an empty folder"):
        store.export("flowers", folder)


def test_versions_count_from_one_for_each_task(store: Store, folder: Path) -> None:
    numbers = [publish(store, relabel(folder, "a", "b", name)).number for name in "xyz"]
    assert numbers == [1, 2, 3]
    assert publish(store, folder, "cars").number == 1


def test_the_same_content_is_the_same_version_and_latest_points_at_it(store: Store, folder: Path) -> None:
    first = publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    assert publish(store, relabel(folder, "rose", "tulip", "poppy")).number == first.number
    assert store.aliases("flowers") == {"latest": 1}


@pytest.mark.parametrize("ref", ["flowers", "flowers@latest", "flowers@prod", "flowers:2", "digest"])
def test_every_form_of_ref_finds_the_version(store: Store, folder: Path, ref: str) -> None:
    publish(store, folder)
    second = publish(store, relabel(folder, "a", "b", "c"), aliases=("prod",))
    assert store.resolve(f"flowers@sha256:{second.digest}" if ref == "digest" else ref) == second


@pytest.mark.parametrize(
    "ref", ["", "a b", "flowers:", "flowers:0", "flowers:-1", "flowers@", "flowers@sha256:12", "flowers:1@prod", "../x"]
)
def test_a_malformed_ref_is_refused(store: Store, ref: str) -> None:
    with pytest.raises(InvalidNameError):
        store.resolve(ref)


def test_an_unknown_task_is_answered_with_the_likeliest(store: Store, folder: Path) -> None:
    publish(store, folder)
    with pytest.raises(TaskNotFoundError, match="did you mean 'flowers'"):
        store.resolve("flower")


@pytest.mark.parametrize(("task", "hint"), [(None, "there is none yet"), ("cars", "there is cars")])
def test_an_unknown_task_that_resembles_none_is_answered_with_all(
    store: Store, folder: Path, task: str | None, hint: str
) -> None:
    if task:
        publish(store, folder, task)
    with pytest.raises(TaskNotFoundError, match=hint):
        store.resolve("flowers")


@pytest.mark.parametrize("ref", ["flowers:7", "flowers@prod", f"flowers@sha256:{'0' * 64}"])
def test_an_unknown_version_is_answered_with_what_exists(store: Store, folder: Path, ref: str) -> None:
    publish(store, folder)
    with pytest.raises(VersionNotFoundError, match="has version 1 and alias latest"):
        store.resolve(ref)


def test_an_alias_moves_and_the_history_remembers(store: Store, folder: Path) -> None:
    publish(store, folder, aliases=("prod",))
    publish(store, relabel(folder, "a", "b", "c"))
    store.set_alias("flowers", "prod", 2)
    store.set_alias("flowers", "prod", 2)
    events = [(event.action, event.alias, event.version) for event in store.history("flowers")]
    assert events == [
        ("publish", None, 1), ("alias", "latest", 1), ("alias", "prod", 1),
        ("publish", None, 2), ("alias", "latest", 2), ("alias", "prod", 2),
    ]  # fmt: skip
    assert store.aliases("flowers") == {"latest": 2, "prod": 2}


def test_an_alias_points_only_at_a_version_that_exists(store: Store, folder: Path) -> None:
    publish(store, folder)
    with pytest.raises(VersionNotFoundError):
        store.set_alias("flowers", "prod", 2)
    with pytest.raises(InvalidNameError):
        store.set_alias("flowers", "a:b", 1)


def test_a_folder_that_names_no_backbone_is_asked_for_it(store: Store, folder: Path) -> None:
    with pytest.raises(BackboneMismatchError, match=r"`backbone=`; the store has toy/vit"):
        store.publish("flowers", folder)


def test_a_backbone_that_is_not_in_the_store_is_asked_for(store: Store, folder: Path) -> None:
    with pytest.raises(BackboneNotFoundError, match="did you mean 'toy/vit'"):
        publish(store, folder, backbone="toy/vitt")


@pytest.mark.parametrize("names", [{"task": "a:b"}, {"task": "../x"}, {"aliases": ("a b",)}])
def test_a_malformed_name_publishes_nothing(store: Store, folder: Path, names: dict[str, object]) -> None:
    with pytest.raises(InvalidNameError):
        publish(store, folder, **names)
    assert store.versions() == []


def test_a_backbone_is_kept_once_whatever_it_is_called(store: Store, toy: Toy) -> None:
    again = store.add_backbone(dataclasses.replace(toy.record, name="other"), toy.weights)
    assert again == store.backbone(toy.record.id.fingerprint)
    assert [record.name for record in store.backbones()] == ["toy/vit"]


def test_a_backbone_name_stays_with_its_fingerprint(store: Store, toy: Toy) -> None:
    other = dataclasses.replace(toy.record, id=dataclasses.replace(toy.record.id, fingerprint="0" * 64))
    with pytest.raises(ConflictError, match="choose another"):
        store.add_backbone(other, None)


def test_weights_that_were_kept_elsewhere_can_be_added_later(toy: Toy, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "new", create=True)
    assert store.add_backbone(toy.record, None).weights is None
    kept = store.add_backbone(toy.record, toy.weights)
    assert kept.weights is not None
    assert store.read(kept.weights) == toy.weights
    assert store.backbone("toy/vit") == kept


def test_writers_in_many_processes_get_numbers_of_their_own(store: Store, folder: Path) -> None:
    children = []
    for writer in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for round_ in range(5):
                    path = folder.with_name(f"task-{writer}-{round_}")
                    path.mkdir()
                    for name in ("adapter_config.json", "adapter_model.safetensors", "head.safetensors"):
                        (path / name).symlink_to(folder / name)
                    publish(store, relabel(path, "a", "b", path.name), aliases=(f"writer-{writer}",))
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert [version.number for version in store.versions("flowers")] == list(range(1, 16))
    assert verify(store) == []


def test_the_exported_card_is_json_for_people(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder)
    data = json.loads((store.export("flowers", tmp_path / "out") / "onetrunk.json").read_text())
    assert data["prune_index"]["depth"] == 2


def test_a_publish_that_fails_holds_nothing(store: Store, folder: Path) -> None:
    labels = Blob.of((folder / "classes.txt").read_bytes())
    Path(store.blobs.locate(labels)).mkdir(parents=True)
    with pytest.raises(OSError, match="cannot be written"):
        publish(store, folder)
    assert store.leases() == []
    with closing(sqlite3.connect(store.root / "catalogue.sqlite")) as connection:
        assert connection.execute("select count(*) from holds").fetchone() == (0,)
