"""Bundles taken apart and put together wrongly."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import load, save

from store.records.blob import Blob, canonical_json
from store.registry.bundle import export_bundle
from store.registry.bundle_archive import write_end, write_member
from store.registry.store import Store

Json = dict[str, Any]
Parts = dict[str, bytes]
Edit = Callable[[Json], object]


def bundle_of(store: Store, *refs: str, with_backbone: bool = True) -> io.BytesIO:
    file = io.BytesIO()
    export_bundle(store, refs, file, with_backbone=with_backbone)
    return file


def parts(bundle: bytes) -> Parts:
    """Return the members by name, as Python's own tar reader finds them."""
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:") as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def whole(members: Mapping[str, bytes]) -> bytes:
    """Put members together as onetrunk does, in the order given."""
    file = io.BytesIO()
    for name, data in members.items():
        write_member(file, name, data)
    write_end(file)
    return file.getvalue()


def foreign(name: str, data: bytes = b"", **fields: object) -> bytes:
    """Return one member as another program would write it, with these fields of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def state(store: Store) -> tuple[object, ...]:
    """Return all that a refused import must leave alone: versions, backbones, events and stored objects."""
    files = sorted((file.path, file.nbytes) for file in store.backend.list("blobs"))
    backbones = [record.name for record in store.backbones()]
    return store.versions(), backbones, list(store.queries.history()), files


def add_blob(blobs: Parts, data: bytes) -> Json:
    """Add a blob, and return its digest and size as a manifest has them."""
    blob = Blob.of(data)
    blobs[f"blobs/{blob.sha256}"] = data
    return {"sha256": blob.sha256, "nbytes": blob.nbytes}


def take(blobs: Parts, name: Json) -> bytes:
    return blobs.pop(f"blobs/{name['sha256']}")


def sealed(index: Json | bytes, blobs: Parts) -> bytes:
    """Put the bundle together again, all digests right."""
    data = index if isinstance(index, bytes) else canonical_json(index)
    return whole({"bundle.json": data, **dict(sorted(blobs.items()))})


def apart(bundle: Parts) -> tuple[Json, Parts]:
    blobs = dict(bundle)
    return json.loads(blobs.pop("bundle.json")), blobs


def with_index(change: Edit) -> Callable[[Parts], bytes]:
    def build(bundle: Parts) -> bytes:
        value, blobs = apart(bundle)
        change(value)
        return sealed(value, blobs)

    return build


def with_index_bytes(change: Callable[[bytes], bytes]) -> Callable[[Parts], bytes]:
    return lambda bundle: sealed(change(bundle["bundle.json"]), apart(bundle)[1])


def with_manifest(change: Edit, encode: Callable[[object], bytes] = canonical_json) -> Callable[[Parts], bytes]:
    """Change the manifest, and name it by its new digest."""

    def build(bundle: Parts) -> bytes:
        value, blobs = apart(bundle)
        document = json.loads(take(blobs, value["versions"][0]["manifest"]))
        change(document)
        value["versions"][0]["manifest"] = add_blob(blobs, encode(document))
        return sealed(value, blobs)

    return build


def with_blob(place: tuple[str, str], change: Callable[[bytes], bytes]) -> Callable[[Parts], bytes]:
    """Change a file that the manifest names, and the manifest with it."""

    def build(bundle: Parts) -> bytes:
        value, blobs = apart(bundle)
        document = json.loads(take(blobs, value["versions"][0]["manifest"]))
        data = change(take(blobs, document[place[0]][place[1]]))
        document[place[0]][place[1]] = add_blob(blobs, data)
        value["versions"][0]["manifest"] = add_blob(blobs, canonical_json(document))
        return sealed(value, blobs)

    return build


def with_record(change: Edit, weights: Callable[[bytes], bytes] = bytes) -> Callable[[Parts], bytes]:
    """Change the record of the backbone and its weights, and name both by their new digests."""

    def build(bundle: Parts) -> bytes:
        value, blobs = apart(bundle)
        document = json.loads(take(blobs, value["backbones"][0]["record"]))
        document["weights"] = add_blob(blobs, weights(take(blobs, document["weights"])))
        change(document)
        value["backbones"][0]["record"] = add_blob(blobs, canonical_json(document))
        return sealed(value, blobs)

    return build


def without(place: Callable[[Json], Json]) -> Callable[[Parts], bytes]:
    """Leave a blob out."""

    def build(bundle: Parts) -> bytes:
        value, blobs = apart(bundle)
        take(blobs, place(value))
        return sealed(value, blobs)

    return build


def with_more(bundle: Parts) -> bytes:
    value, blobs = apart(bundle)
    add_blob(blobs, b"#!/bin/sh\n")
    return sealed(value, blobs)


def one_bit(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def swapped(data: bytes) -> bytes:
    tensors = load(data)
    pair = ("blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight")
    tensors.update({pair[0]: tensors[pair[1]], pair[1]: tensors[pair[0]]})
    return save(tensors)


def first(value: Json) -> Json:
    return value["versions"][0]
