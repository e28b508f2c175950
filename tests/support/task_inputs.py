"""The real tasks that the crash tests publish, made once: the processes that are killed need no tensor library."""

from __future__ import annotations

import shutil
from pathlib import Path

from store.registry.bundle import export_bundle
from store.registry.store import Store
from support.toy_backbone import make_toy, relabel, tune

LABELS = {"two": ("oak", "elm", "yew"), "three": ("cat", "dog", "cow"), "four": ("red", "green", "blue")}


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
