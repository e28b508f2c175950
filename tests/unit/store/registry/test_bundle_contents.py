from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.broken_bundles import (
    Parts,
    add_blob,
    apart,
    bundle_of,
    first,
    one_bit,
    parts,
    sealed,
    state,
    swapped,
    take,
    whole,
    with_blob,
    with_index,
    with_index_bytes,
    with_manifest,
    with_more,
    with_record,
    without,
)
from support.destinations import empty_store
from support.toy_backbone import Toy, publish

from store.errors import (
    AdapterMismatchError,
    BackboneMismatchError,
    FormatError,
    HeadMismatchError,
    InvalidNameError,
    NewerFormatError,
    OnetrunkError,
    RefusedError,
    UnservedAdapterError,
)
from store.records.blob import Blob, canonical_json
from store.registry.bundle import import_bundle
from store.registry.store import Store

NAMED = [("adapter", "config"), ("adapter", "weights"), ("head", "weights"), ("head", "labels")]


@pytest.fixture
def bundle(store: Store, folder: Path) -> Parts:
    """The parts of a good bundle of one version and its backbone."""
    publish(store, folder)
    return parts(bundle_of(store, "flowers").getvalue())


LIES: dict[str, tuple[Callable[[Parts], bytes], type[OnetrunkError]]] = {
    "an index that is no JSON": (with_index_bytes(lambda _: b"{"), FormatError),
    "an index that is no UTF-8": (with_index_bytes(lambda _: b"\xff\xfe"), FormatError),
    "an index that is a list": (with_index_bytes(lambda _: b"[]"), FormatError),
    "an index that is empty": (with_index_bytes(lambda _: b""), FormatError),
    "an index too deep": (with_index_bytes(lambda _: b"[" * 100_000), FormatError),
    "an index with blanks": (with_index_bytes(lambda b: b + b"\n"), FormatError),
    "an index with a key twice": (with_index_bytes(lambda b: b.replace(b"{", b'{"format":1,', 1)), FormatError),
    "a newer format": (with_index(lambda v: v.update(format=2)), NewerFormatError),
    "a newer format with new keys": (with_index(lambda v: v.update(format=9, signatures=[])), NewerFormatError),
    "a format below 1": (with_index(lambda v: v.update(format=0)), FormatError),
    "a format that is true": (with_index(lambda v: v.update(format=True)), FormatError),
    "an unknown key": (with_index(lambda v: v.update(script="rm")), FormatError),
    "an unknown key of a version": (with_index(lambda v: first(v).update(path="../x")), FormatError),
    "no versions": (with_index(lambda v: v.update(versions=[])), FormatError),
    "no backbones": (with_index(lambda v: v.update(backbones=[])), FormatError),
    "a version twice": (with_index(lambda v: v["versions"].append(first(v))), FormatError),
    "a backbone twice": (with_index(lambda v: v["backbones"].append(v["backbones"][0])), FormatError),
    "a task that climbs": (with_index(lambda v: first(v).update(task="../flowers")), InvalidNameError),
    "another task than the manifest's": (with_index(lambda v: first(v).update(task="cars")), FormatError),
    "a wrong size": (with_index(lambda v: first(v)["manifest"].update(nbytes=7)), FormatError),
    "a size below zero": (with_index(lambda v: first(v)["manifest"].update(nbytes=-1)), FormatError),
    "a digest that climbs": (with_index(lambda v: first(v)["manifest"].update(sha256="../../x")), FormatError),
    "another fingerprint": (with_index(lambda v: v["backbones"][0].update(fingerprint="0" * 64)), FormatError),
    "a record as manifest": (with_index(lambda v: first(v).update(manifest=v["backbones"][0]["record"])), FormatError),
    "no manifest": (without(lambda v: first(v)["manifest"]), FormatError),
    "no backbone record": (without(lambda v: v["backbones"][0]["record"]), FormatError),
    "a blob that nothing names": (with_more, FormatError),
    "a manifest of another task": (with_manifest(lambda m: m.update(task="cars")), FormatError),
    "a manifest of a newer format": (with_manifest(lambda m: m.update(format=99)), NewerFormatError),
    "a manifest with blanks": (with_manifest(lambda _: None, lambda m: json.dumps(m).encode()), FormatError),
    "a manifest with an unknown key": (with_manifest(lambda m: m.update(run="x")), FormatError),
    "a manifest beyond JSON": (
        with_manifest(lambda m: m["prune_index"].update(alpha=float("nan")), lambda m: json.dumps(m).encode()),
        FormatError,
    ),
    "a manifest of a lone surrogate": (
        with_manifest(lambda m: m.update(backbone_name="\ud800"), lambda m: json.dumps(m).encode()), OnetrunkError,
    ),
    "a manifest too deep": (
        with_manifest(
            lambda m: m.update(lineage={"recipe": {"x": 0}}),
            lambda m: json.dumps(m).replace('"x": 0', '"x": ' + "[" * 900 + "]" * 900).encode(),
        ),
        FormatError,
    ),
    "a manifest too large": (with_manifest(lambda m: m.update(backbone_name="a" * (5 << 20))), FormatError),
    "a backbone that is not there": (with_manifest(lambda m: m.update(backbone="f" * 64)), FormatError),
    "a rank that is not the tensors'": (with_manifest(lambda m: m["adapter"].update(rank=8)), FormatError),
    "a method that is not the config's": (with_manifest(lambda m: m["adapter"].update(method="dora")), FormatError),
    "modules that are not the tensors'": (with_manifest(lambda m: m["adapter"]["modules"].pop()), FormatError),
    "classes that are not the head's": (with_manifest(lambda m: m["head"].update(classes=4)), FormatError),
    "a depth above the blocks": (with_manifest(lambda m: m["prune_index"].update(depth=5)), FormatError),
    "a depth below the adapters": (with_manifest(lambda m: m["prune_index"].update(depth=1)), AdapterMismatchError),
    "other blocks": (with_manifest(lambda m: m["prune_index"].update(blocks=12)), BackboneMismatchError),
    "no class names": (with_blob(("head", "labels"), lambda _: b""), HeadMismatchError),
    "other class names": (with_blob(("head", "labels"), lambda _: b"a\nb\n"), HeadMismatchError),
    "class names too large": (with_blob(("head", "labels"), lambda _: b"a\n" * (9 << 20)), FormatError),
    "a config that is no JSON": (with_blob(("adapter", "config"), lambda _: b"\x80\x04."), FormatError),
    "another method": (
        with_blob(("adapter", "config"), lambda b: b.replace(b'"LORA"', b'"BOFT"')), UnservedAdapterError,
    ),
    "an adapter that is a pickle": (with_blob(("adapter", "weights"), lambda _: b"\x80\x04\x95N."), FormatError),
    "an adapter that is cut": (with_blob(("adapter", "weights"), lambda b: b[:-4]), FormatError),
    "a head that is the adapter": (with_blob(("head", "weights"), lambda _: save({"x": torch.zeros(3)})), RefusedError),
    "a bit of the backbone": (with_record(lambda _: None, one_bit), BackboneMismatchError),
    "two tensors of the backbone swapped": (with_record(lambda _: None, swapped), BackboneMismatchError),
    "a backbone that is a pickle": (with_record(lambda _: None, lambda _: b"\x80\x04."), FormatError),
    "another preprocessing": (
        with_record(lambda r: r["id"]["preprocessing"].update(crop_pct=0.5)), BackboneMismatchError,
    ),
    "another width than the backbone's": (with_record(lambda r: r.update(dim=64)), BackboneMismatchError),
    "more blocks than the backbone's": (with_record(lambda r: r.update(blocks=12)), BackboneMismatchError),
    "other modules than the backbone's": (
        with_record(lambda r: r["modules"].update({"blocks.0.x": [1, 1]})), BackboneMismatchError,
    ),
    "a backbone whose name climbs": (with_record(lambda r: r.update(name="../x")), InvalidNameError),
    "a record with an unknown key": (with_record(lambda r: r.update(code="x")), FormatError),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_a_bundle_that_lies_is_refused_and_leaves_nothing(bundle: Parts, tmp_path: Path, case: str) -> None:
    lie, error = LIES[case]
    store = empty_store(tmp_path / "target")
    before = state(store)
    with pytest.raises(error) as caught:
        import_bundle(store, io.BytesIO(lie(bundle)))
    assert state(store) == before
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "place", [("adapter", "config"), ("adapter", "weights"), ("head", "weights"), ("head", "labels")]
)
def test_a_file_that_the_manifest_names_must_be_there(bundle: Parts, tmp_path: Path, place: tuple[str, str]) -> None:
    value, blobs = apart(bundle)
    found = json.loads(blobs[f"blobs/{first(value)['manifest']['sha256']}"])
    take(blobs, found[place[0]][place[1]])
    store = empty_store(tmp_path / "target")
    with pytest.raises(FormatError, match="is missing"):
        import_bundle(store, io.BytesIO(sealed(value, blobs)))
    assert store.versions() == store.backbones() == []


def test_one_bad_version_keeps_the_good_ones_out(store: Store, folder: Path, tmp_path: Path) -> None:
    publish(store, folder, "cars")
    publish(store, folder)
    value, blobs = apart(parts(bundle_of(store, "cars", "flowers").getvalue()))
    found = json.loads(take(blobs, value["versions"][1]["manifest"]))
    value["versions"][1]["manifest"] = add_blob(
        blobs, canonical_json(found | {"adapter": found["adapter"] | {"rank": 9}})
    )
    other = empty_store(tmp_path / "target")
    with pytest.raises(FormatError, match="flowers:1 is not that of its files"):
        import_bundle(other, io.BytesIO(sealed(value, blobs)))
    assert other.versions() == other.backbones() == []


def test_a_record_that_lies_of_a_known_backbone_is_not_believed(store: Store, bundle: Parts, toy: Toy) -> None:
    lie = with_record(lambda r: (r.update(dim=64), r.update(weights=None)))(bundle)
    with pytest.raises(FormatError, match="named by nothing"):
        import_bundle(store, io.BytesIO(lie))
    value, blobs = apart(parts(lie))
    blobs = {name: data for name, data in blobs.items() if data != toy.weights}
    (version,) = import_bundle(store, io.BytesIO(sealed(value, blobs)))
    assert (version.number, store.backbones()[0].dim) == (1, toy.record.dim)


PEAK = """
import io, resource, sys
from pathlib import Path
from store.registry.bundle import import_bundle
from store.errors import FormatError
from store.registry.store import Store
store = Store.open(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    import_bundle(store, Path(sys.argv[2]))
except FormatError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def peak_mib(store: Store, path: Path) -> tuple[float, str]:
    """Import in a process of its own; return by how much its memory grew, and what it said."""
    command = [sys.executable, "-c", PEAK, str(store.root), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, _, message = result.stdout.partition(" ")
    return int(grown) / 1024, message


def test_a_bundle_is_checked_in_little_memory_however_large_it_is(store: Store, bundle: Parts, tmp_path: Path) -> None:
    index, *rest = bundle.items()
    path, zeros = tmp_path / "large.tar", bytes(256 << 20)
    path.write_bytes(whole(dict([index, *sorted([*rest, (f"blobs/{Blob.of(zeros).sha256}", zeros)])])))
    grown, message = peak_mib(store, path)
    assert "more than the 7 blobs" in message
    assert grown < 64


@pytest.mark.parametrize("text", [b"[" * (8 << 20), b'{"backbones":[' + b"{}," * (2 << 20), bytes(9 << 20)])
def test_an_index_that_unfolds_in_memory_is_bounded(store: Store, tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "index.tar"
    closed = text.removesuffix(b",") + (b"]}" if text.endswith(b",") else b"")
    path.write_bytes(whole({"bundle.json": closed}))
    grown, message = peak_mib(store, path)
    assert message
    assert grown < 400
