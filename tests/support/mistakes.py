"""A store and folders in which a user makes mistakes: what is right, and what is wrong in one way each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from store.records.events import AliasRule
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store
from support.populated_store import other_toy
from support.toy_backbone import Toy, publish, relabel, set_option, tune


@dataclass(frozen=True)
class World:
    """Where things are: the store, and a folder of inputs."""

    root: Path
    store: Path

    def input(self, name: str) -> Path:
        return self.root / name


def make_world(root: Path, toy: Toy) -> World:
    """Make `flowers` of two versions, of which `prod` is protected, `garden/trees`, and a task's folder and its faults.

    `right` has no fault; `carded` names its backbone; the others have the fault that their name says.
    """
    right = tune(root / "right", depth=2)
    with Store.open(root / "store", create=True, actor="ann@host") as store:
        for one in (toy, other_toy(toy)):
            store.add_backbone(one.record, one.weights)
        publish(store, right, aliases=("prod",))
        store.set_rule(AliasRule("flowers", "prod", protected=True))
        publish(store, relabel(right, "ash", "oak", "elm"))
        publish(store, relabel(right, "rose", "tulip", "poppy"), "garden/trees")
    certificate = Certificate(Accuracy(90, 100), Accuracy(88, 100))
    card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "given"), certificate)
    faults: dict[str, Callable[[Path], object]] = {
        "carded": lambda folder: (folder / "onetrunk.json").write_bytes(card.to_json()),
        "torn": lambda folder: _cut_short(folder / "adapter_model.safetensors"),
        "another_rank": lambda folder: set_option(folder, r=8),
        "headless": lambda folder: (folder / "head.safetensors").unlink(),
        "two_labels": lambda folder: relabel(folder, "rose", "tulip"),
        "no_JSON": lambda folder: (folder / "adapter_config.json").write_text("{"),
    }
    for name, fault in faults.items():
        fault(Path(shutil.copytree(right, root / name)))
    (root / "empty").mkdir()
    (root / "text.png").write_text("not an image")
    return World(root, root / "store")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
