from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.toy_backbone import publish

from store.adapters.checkpoint import parse_classes
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex
from store.records.manifest import Adapter
from store.registry.diff import Side, compare
from store.registry.store import Store

RECIPE = {"tune": {"epochs": 8, "lr": 0.001}}
LINEAGE = Lineage(data="flowers", data_digest="ab", recipe=RECIPE, versions={"peft": "0.21"})
PARENT = "flowers@sha256:" + "0" * 64


@pytest.fixture
def side(store: Store, folder: Path) -> Side:
    manifest = publish(store, folder).manifest
    return Side(replace(manifest, lineage=LINEAGE), parse_classes(store.read(manifest.head.labels)))


def differences(left: Side, right: Side) -> dict[str, tuple[object, object]]:
    return {row.field: (row.left, row.right) for row in compare(left, right)}


def changed(side: Side, **fields: object) -> Side:
    return replace(side, manifest=replace(side.manifest, **fields))


def adapted(side: Side, **fields: object) -> Side:
    return changed(side, adapter=Adapter(**{**vars(side.manifest.adapter), **fields}))


def test_a_version_does_not_differ_from_itself(side):
    assert compare(side, side) == ()


def test_the_decision_for_a_cut_is_compared_field_by_field(side):
    index = PruneIndex(3, 4, "tsne-silhouette", 0.3, 0.1, (None, None, 0.05, 0.4), seed=1, samples=90)
    found = differences(side, changed(side, prune_index=index))
    assert found["depth"] == (2, 3)
    assert found["criterion"] == ("given", "tsne-silhouette")
    assert found["scores"] == ([], [None, None, 0.05, 0.4])
    assert found["alpha"] == (None, 0.3)
    assert "blocks" not in found


def test_accuracies_are_compared_with_their_intervals(side):
    one = changed(side, certificate=Certificate(Accuracy(90, 100), Accuracy(89, 100)))
    other = changed(side, certificate=Certificate(Accuracy(90, 100), Accuracy(85, 100), Accuracy(40, 100)))
    found = differences(one, other)
    assert "accuracy full" not in found
    left, right = found["accuracy cut"]
    assert (left["correct"], right["total"], right["value"]) == (89, 100, 0.85)
    assert left["interval"] == list(Accuracy(89, 100).interval)
    assert found["accuracy cut before retune"][0] is None
    assert differences(side, one)["accuracy cut"][0] is None


def test_modules_are_told_by_which_side_has_them_alone(side):
    modules = side.manifest.adapter.modules
    found = differences(side, adapted(side, modules=(*modules[1:], "blocks.1.extra"), rank=8, method="dora"))
    assert found["modules in one alone"] == ([modules[0]], ["blocks.1.extra"])
    assert (found["rank"], found["method"]) == ((4, 8), ("lora", "dora"))


@pytest.mark.parametrize(
    ("classes", "alone", "moved"),
    [
        (("rose", "tulip", "poppy", "oak"), ([], ["oak"]), None),
        (("oak", "rose", "tulip", "poppy"), ([], ["oak"]), None),  # what comes before moves none of the others
        (("tulip", "poppy"), (["rose"], []), None),
        (("rose", "poppy", "tulip"), None, (["tulip", "poppy"], ["poppy", "tulip"])),
        (("poppy", "oak", "rose"), (["tulip"], ["oak"]), (["rose", "poppy"], ["poppy", "rose"])),
    ],
)
def test_labels_are_told_as_added_removed_and_reordered(side, classes, alone, moved):
    found = differences(side, replace(side, classes=classes))
    assert found.get("labels in one alone") == alone
    assert found.get("labels in another order") == moved
    assert ("classes" in found) == (len(classes) != 3)


def test_bytes_and_files_are_told_by_size_and_digest(side, store):
    blob = store.blobs.put(b"other weights")
    found = differences(side, adapted(side, weights=blob))
    assert found["adapter weights"] == (f"sha256:{side.manifest.adapter.weights.sha256}", f"sha256:{blob.sha256}")
    left, right = found["nbytes"]
    assert left - right == len(side.manifest.to_json()) - len(adapted(side, weights=blob).manifest.to_json()) + (
        side.manifest.adapter.weights.nbytes - blob.nbytes
    )
    assert found.keys() == {"adapter weights", "nbytes"}


def test_lineage_is_compared_down_to_each_setting_of_the_recipe(side):
    recipe = {"tune": {"epochs": 9, "lr": 0.001}, "seed": 1}
    found = differences(side, changed(side, lineage=replace(LINEAGE, recipe=recipe, parent=PARENT)))
    assert found["lineage.recipe.tune.epochs"] == (8, 9)
    assert found["lineage.recipe.seed"] == (None, 1)
    assert found["lineage.parent"] == (None, PARENT)
    assert "lineage.recipe.tune.lr" not in found
    assert differences(changed(side, lineage=None), side)["lineage.data"] == (None, "flowers")


def test_every_value_is_one_that_json_has(side):
    other = changed(side, certificate=Certificate(Accuracy(90, 100), Accuracy(89, 100)), lineage=None, task="other")
    rows = [asdict(row) for row in compare(side, other)]
    assert json.loads(json.dumps(rows)) == rows
