"""Every kind of file, damaged in every way: found, named with its task and a remedy, set aside, and never served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.oracle import png
from support.populated_store import OTHER, Place, places, write
from support.toy_backbone import Toy, publish, relabel, tune

from serving.runtime.predictor import Predictor
from store.backends.layout import QUARANTINE, digest_of
from store.errors import IntegrityError
from store.maintenance.garbage import collect_garbage
from store.maintenance.verify import verify
from store.registry.store import Store

KINDS = ("manifest", "adapter config", "adapter weights", "head", "class names", "backbone record", "backbone weights")
SAFETENSORS = ("adapter weights", "head", "backbone weights")
IMAGE = png(torch.zeros(32, 32, 3, dtype=torch.uint8))
Damage = Callable[[bytes], bytes | None]


def flip(position: int) -> Damage:
    def damage(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return damage


DAMAGES: dict[str, Damage] = {
    "first byte flipped": flip(0),
    "a byte of the header flipped": flip(20),
    "last byte flipped": flip(-1),
    "last byte cut": lambda data: data[:-1],
    "first byte cut": lambda data: data[1:],
    "half cut": lambda data: data[: len(data) // 2],
    "a byte added": lambda data: data + b"\0",
    "written twice": lambda data: data * 2,
    "zeroed": lambda data: bytes(len(data)),
    "empty": lambda _: b"",
    "removed": lambda _: None,
}
IN_TENSORS: dict[str, Damage] = {
    "length of the header flipped": flip(3),
    "high byte of that length flipped": flip(7),
    "first byte of the data flipped": lambda data: flip(8 + int.from_bytes(data[:8], "little"))(data),
    "a middle byte flipped": lambda data: flip(len(data) // 2)(data),
}
CASES = [(kind, name, damage) for kind in KINDS for name, damage in DAMAGES.items()]
CASES += [(kind, name, damage) for kind in SAFETENSORS for name, damage in IN_TENSORS.items()]


@pytest.fixture
def whole(root: Path) -> Iterator[Store]:
    with Store.open(root) as store:
        yield store


def check_found_and_refused(store: Store, place: Place, path: Path, out: Path) -> None:
    findings = [finding for finding in verify(store) if finding.path == str(path)]
    assert [finding.used_by for finding in findings] == [(place.used_by,)]
    assert str(findings[0]).endswith("restore the file from a copy of the store, or publish again what it came from")
    assert str(path) in findings[0].problem
    with pytest.raises(IntegrityError, match=f"{path.name}.* restore the file") as caught:
        place.use(store, out)
    assert "\n" not in str(caught.value)


def test_a_whole_store_has_no_fault(whole: Store) -> None:
    assert verify(whole) == []


@pytest.mark.parametrize(("kind", "damage"), [(k, d) for k, _, d in CASES], ids=[f"{k}-{n}" for k, n, _ in CASES])
def test_a_damaged_blob_is_named_with_its_task_and_never_given_out(
    whole: Store, root: Path, tmp_path: Path, kind: str, damage: Damage
) -> None:
    place = places(whole, "acme/cars", "toy/vit")[kind]
    write(root / place.key, damage((root / place.key).read_bytes()))
    check_found_and_refused(whole, place, root / place.key, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_of_a_kind_with_each_others_bytes_are_both_found(
    whole: Store, root: Path, tmp_path: Path, kind: str
) -> None:
    one, other = places(whole, "flowers", "toy/vit")[kind], places(whole, "acme/cars", OTHER)[kind]
    paths = root / one.key, root / other.key
    datas = [path.read_bytes() for path in paths]
    assert (len(datas[0]) == len(datas[1])) or kind in ("manifest", "backbone record", "adapter config")
    write(paths[0], datas[1])
    write(paths[1], datas[0])
    found = {finding.path for finding in verify(whole)}
    assert {str(path) for path in paths} <= found
    for place in (one, other):
        with pytest.raises(IntegrityError, match="restore the file"):
            place.use(whole, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_the_bytes_of_another_kind_is_found(whole: Store, root: Path, tmp_path: Path, kind: str) -> None:
    found = places(whole, "acme/cars", "toy/vit")
    other = KINDS[(KINDS.index(kind) + 1) % len(KINDS)]
    write(root / found[kind].key, (root / found[other].key).read_bytes())
    check_found_and_refused(whole, found[kind], root / found[kind].key, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("damage", [DAMAGES["last byte flipped"], DAMAGES["removed"]], ids=["flipped", "removed"])
def test_a_damaged_blob_never_answers_a_request(root: Path, kind: str, damage: Damage) -> None:
    with Store.open(root) as store:
        place = places(store, "acme/cars", "toy/vit")[kind]
        write(root / place.key, damage((root / place.key).read_bytes()))
        with (
            pytest.raises(IntegrityError, match=place.key),
            Predictor(store, backbone="toy/vit") as service,
        ):
            service.predict("acme/cars", IMAGE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [DAMAGES["last byte flipped"], DAMAGES["empty"]], ids=["flipped", "empty"])
def test_a_damaged_blob_is_set_aside_and_never_deleted(
    whole: Store, root: Path, tmp_path: Path, kind: str, damage: Damage
) -> None:
    place = places(whole, "acme/cars", "toy/vit")[kind]
    bad = damage((root / place.key).read_bytes())
    write(root / place.key, bad)
    (finding,) = [finding for finding in verify(whole, quarantine=True) if finding.path == str(root / place.key)]
    (aside,) = (root / QUARANTINE).iterdir()
    assert f"set aside as {aside}" in finding.problem
    assert aside.name.startswith(f"{digest_of(place.key)}.")
    assert aside.read_bytes() == bad
    assert not (root / place.key).exists()
    with pytest.raises(IntegrityError, match="is missing"):
        place.use(whole, tmp_path / "out")
    collect_garbage(whole, grace_s=0)
    assert [finding.used_by for finding in verify(whole, quarantine=True)] == [(place.used_by,)]
    assert [path.read_bytes() for path in (root / QUARANTINE).iterdir()] == [bad]


@pytest.mark.parametrize("damage", [*DAMAGES.values()], ids=[*DAMAGES])
def test_publishing_and_adding_again_mend_what_is_damaged_and_keep_the_bad_bytes(
    toy: Toy, tmp_path: Path, damage: Damage
) -> None:
    folder = relabel(tune(tmp_path / "task", depth=2), "a red rose", "a tulip", "a poppy")
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(toy.record, toy.weights)
        version = publish(store, folder)
        damaged = []
        for blob in (*version.manifest.blobs, version.manifest_blob):
            path = Path(store.blobs.locate(blob))
            damaged.append(damage(path.read_bytes()))
            write(path, damaged[-1])
        assert publish(store, folder).digest == version.digest
        assert verify(store) == []
        kept = sorted(path.read_bytes() for path in (store.root / QUARANTINE).glob("*"))
    assert kept == sorted(data for data in damaged if data is not None)
