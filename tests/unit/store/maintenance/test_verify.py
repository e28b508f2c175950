from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from support.toy_backbone import publish, relabel

from store.accounting.report import storage_report
from store.errors import IntegrityError
from store.maintenance.verify import verify
from store.records.blob import Blob
from store.registry.store import Store

ROLES = ("manifest", "adapter config", "adapter weights", "head weights", "class names")


def named(store: Store, role: str) -> Blob:
    manifest = store.resolve("flowers").manifest
    config, weights, head, labels = manifest.blobs
    return dict(zip(ROLES, (store.resolve("flowers").manifest_blob, config, weights, head, labels), strict=True))[role]


def path_of(store: Store, blob: Blob) -> Path:
    return Path(store.blobs.locate(blob))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage(path: Path, how: Callable[[Path], None]) -> None:
    path.chmod(0o644)
    how(path)


DAMAGES = {
    "a flipped bit": flip,
    "a missing last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "nothing left": lambda path: path.write_bytes(b""),
    "a byte too many": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "no file": lambda path: path.unlink(),
}
every_damage = pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)


@every_damage
@pytest.mark.parametrize("role", ROLES[1:])
def test_a_damaged_blob_is_never_given_out(store: Store, folder: Path, role: str, how: Callable[[Path], None]) -> None:
    publish(store, folder)
    blob = named(store, role)
    damage(path_of(store, blob), how)
    with pytest.raises(IntegrityError, match=f"{role} of flowers:1: .*{blob.sha256}.*: restore the file"):
        store.read(blob)


@every_damage
def test_a_damaged_manifest_is_never_resolved(store: Store, folder: Path, how: Callable[[Path], None]) -> None:
    publish(store, folder)
    damage(path_of(store, named(store, "manifest")), how)
    with pytest.raises(IntegrityError, match="restore the file"):
        store.resolve("flowers")


@every_damage
def test_a_damaged_backbone_is_never_given_out(store: Store, how: Callable[[Path], None]) -> None:
    weights = store.backbone("toy/vit").weights
    assert weights is not None
    damage(path_of(store, weights), how)
    with pytest.raises(IntegrityError, match="weights of backbone toy/vit"):
        store.read(weights)


@every_damage
def test_a_damaged_backbone_record_is_found_and_never_used(store: Store, how: Callable[[Path], None]) -> None:
    path = path_of(store, Blob((row := store.queries.backbones()[0]).record, row.record_nbytes))
    damage(path, how)
    with pytest.raises(IntegrityError, match="restore the file"):
        store.backbone("toy/vit")
    assert ("record of backbone toy/vit",) in [finding.used_by for finding in verify(store)]


def test_a_report_of_a_store_with_a_missing_blob_names_the_file(store: Store, folder: Path) -> None:
    publish(store, folder)
    blob = named(store, "head weights")
    path_of(store, blob).unlink()
    assert any(f"{blob.sha256} is missing" in problem.problem for problem in storage_report(store).problems)


@every_damage
@pytest.mark.parametrize("role", ROLES)
def test_verify_names_the_damaged_file_and_its_task(
    store: Store, folder: Path, role: str, how: Callable[[Path], None]
) -> None:
    publish(store, folder)
    blob = named(store, role)
    damage(path_of(store, blob), how)
    findings = [finding for finding in verify(store) if finding.path == str(path_of(store, blob))]
    assert [finding.used_by for finding in findings] == [(f"{role} of flowers:1",)]
    assert str(findings[0]).endswith("publish again what it came from")


def test_verify_finds_nothing_in_a_whole_store(store: Store, folder: Path) -> None:
    publish(store, folder)
    assert verify(store) == []


def test_verify_finds_damage_in_a_blob_that_nothing_names(store: Store) -> None:
    blob = store.blobs.put(b"left by a publish that died")
    damage(path_of(store, blob), flip)
    assert [finding.used_by for finding in verify(store)] == [()]


def test_publishing_again_mends_a_damaged_blob(store: Store, folder: Path) -> None:
    publish(store, folder)
    damage(path_of(store, named(store, "adapter weights")), flip)
    publish(store, folder)
    assert verify(store) == []


@pytest.mark.parametrize(
    "change",
    [
        "update history set version = 9 where number = 3",
        "delete from history where number = 3",
        "update history set at = '2020-01-01' where number = 1",
    ],
)
def test_a_rewritten_history_is_found(store: Store, folder: Path, change: str) -> None:
    publish(store, folder)
    publish(store, relabel(folder, "a", "b", "c"))
    with sqlite3.connect(store.root / "catalogue.sqlite") as connection:
        connection.execute(change)
    assert [finding.problem for finding in verify(store) if "history breaks" in finding.problem] != []


def test_a_manifest_swapped_for_another_task_is_found(store: Store, folder: Path) -> None:
    publish(store, folder)
    other = publish(store, folder, "cars")
    with sqlite3.connect(store.root / "catalogue.sqlite") as connection:
        row = (other.digest, other.manifest_nbytes)
        connection.execute("update versions set digest = ?, nbytes = ? where task = 'flowers'", row)
    with pytest.raises(IntegrityError, match="has the manifest of cars"):
        store.resolve("flowers")
    assert {finding.used_by for finding in verify(store)} == {("flowers:1",)}


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_damaged_catalogue_is_a_typed_error(store: Store, folder: Path, content: bytes) -> None:
    publish(store, folder)
    store.close()
    (store.root / "catalogue.sqlite").write_bytes(content)
    with pytest.raises(IntegrityError, match="restore it from a copy"):
        Store.open(store.root)
