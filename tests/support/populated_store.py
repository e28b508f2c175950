"""A store with something of everything in it, to be damaged: where each file lies, and what reads it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save

from store.adapters.backbone_fingerprint import fingerprint_file
from store.backends.layout import blob_key
from store.records.backbone import BackboneRecord
from store.records.blob import Blob
from store.records.events import AliasRule, ApiKey
from store.registry.store import Store
from support.toy_backbone import Toy, publish, relabel, tune

OTHER = "other/vit"


@dataclass(frozen=True)
class Place:
    """A file of a store by its key, whose it is, and what must refuse to give it out once it is damaged."""

    key: str
    used_by: str
    use: Callable[[Store, Path], object]


def other_toy(toy: Toy) -> Toy:
    """Make a backbone of the same architecture and shapes with other weights."""
    weights = save({name: tensor + 0.5 for name, tensor in load(toy.weights).items()})
    identity = toy.record.id
    fingerprint = fingerprint_file(weights, identity.architecture, identity.arguments, identity.preprocessing)
    identity = dataclasses.replace(identity, fingerprint=fingerprint)
    return Toy(dataclasses.replace(toy.record, name=OTHER, id=identity), weights)


def build(root: Path, scratch: Path, toy: Toy) -> Path:
    """Make two backbones, three tasks, aliases, a rule, tags, a key, and a version that is removed."""
    other = other_toy(toy)
    with Store.open(root, create=True, actor="ann@host") as store:
        store.add_backbone(toy.record, toy.weights)
        store.add_backbone(other.record, other.weights)
        folder = tune(scratch, depth=2)
        publish(store, folder, aliases=("prod",))
        publish(store, relabel(folder, "a", "b", "c"), aliases=("next",))
        publish(store, relabel(folder, "a red rose", "a tulip", "a poppy"))
        publish(store, relabel(folder, "wren", "tern", "robin"), "birds", backbone=OTHER)
        store.remove_alias("flowers", "next")
        store.remove("flowers:2")
        cars = relabel(tune(scratch, depth=2, lora_alpha=9, seed=1), "a red taxi", "a wagon", "a coach")
        publish(store, cars, "acme/cars")
        store.set_rule(AliasRule("flowers", "prod", protected=True, max_drop=1.5, min_accuracy=0.25))
        store.set_tag("flowers", "owner", "ann")
        store.set_tag("acme/cars", "owner", "bob", version=1)
        store.put_key(ApiKey("k1", "acme", ("read", "publish"), "ab" * 32, ""))
        store.put_key(ApiKey("k2", None, ("admin",), "cd" * 32, ""))
        store.revoke_key("k2")
    return root


def copy(root: Path, to: Path) -> Path:
    return Path(shutil.copytree(root, to))


def places(store: Store, task: str, backbone: str) -> dict[str, Place]:
    """Return every kind of blob of a task's latest version and of a backbone."""
    version = store.resolve(task)
    config, weights, head, labels = version.manifest.blobs
    owner = f"{task}:{version.number}"
    row = store.queries.backbone(backbone)
    record = store.backbone(backbone)
    assert row is not None
    assert record.weights is not None
    return {
        "manifest": _blob(version.manifest_blob, f"manifest of {owner}", lambda s, _out: s.resolve(task)),
        "adapter config": _blob(config, f"adapter config of {owner}", _export(task)),
        "adapter weights": _blob(weights, f"adapter weights of {owner}", _export(task)),
        "head": _blob(head, f"head weights of {owner}", _export(task)),
        "class names": _blob(labels, f"class names of {owner}", _export(task)),
        "backbone record": _blob(
            Blob(row.record, row.record_nbytes), f"record of backbone {backbone}", lambda s, _out: s.backbone(backbone)
        ),
        "backbone weights": _blob(record.weights, f"weights of backbone {backbone}", _weights(record)),
    }


def _blob(blob: Blob, used_by: str, use: Callable[[Store, Path], object]) -> Place:
    return Place(blob_key(blob.sha256), used_by, use)


def _export(task: str) -> Callable[[Store, Path], object]:
    return lambda store, out: store.export(task, out)


def _weights(record: BackboneRecord) -> Callable[[Store, Path], object]:
    def read(store: Store, _: Path) -> bytes:
        assert record.weights is not None
        return store.read(record.weights)

    return read


def write(path: Path, data: bytes | None) -> None:
    """Replace a file that the store keeps read-only; None removes it."""
    path.unlink()
    if data is not None:
        path.write_bytes(data)
