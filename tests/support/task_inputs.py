"""What the crash tests start from, made once: real tasks, and each verb's store. Killed processes need no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from store.registry.bundle import export_bundle
from store.registry.store import Store
from support.invariants import VerbSubject, prepare
from support.store_verbs import VERBS
from support.toy_backbone import make_toy, relabel, tune

LABELS = {"two": ("oak", "elm", "yew"), "three": ("cat", "dog", "cow"), "four": ("red", "green", "blue")}


def prepare_verbs(folder: Path, names: Iterable[str] = VERBS) -> dict[str, VerbSubject]:
    """Make the inputs of all verbs in the folder, and the store of each of the named ones."""
    inputs = make_inputs(folder / "inputs")
    return {name: prepare(name, inputs, folder / name) for name in names}


def make_inputs(folder: Path) -> Path:
    """Leave task folders `one` to `four`, a `store` that has published the first three of them, and a bundle of two."""
    toy = make_toy()
    tune(folder / "one", depth=1, r=2)
    for name, labels in LABELS.items():
        relabel(Path(shutil.copytree(folder / "one", folder / name)), *labels)
    with Store.open(folder / "store", create=True, actor="before") as store:
        store.add_backbone(toy.record, toy.weights)
        for name in ("one", "two", "three"):
            store.publish("flowers", folder / name, backbone="toy/vit", depth=1)
        store.set_alias("flowers", "live", 1)
        store.set_tag("flowers", "season", "spring")
        export_bundle(store, ["flowers:1", "flowers:3"], folder / "bundle.onetrunk")
    return folder
