"""The lineage of a version."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_backbone import Toy

from store.records.evidence import Lineage, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store


@pytest.mark.parametrize(
    "lineage",
    [
        Lineage(code_commit="4f2c1d9", parent=f"flowers@sha256:{'ab' * 32}"),
        Lineage("flowers", "ab" * 32, 100, 50, {"lr": 0.001}, {"peft": "0.21.2"}, "4f2c1d9-dirty", None),
    ],
)
def test_where_a_version_came_from_travels_with_it(
    store: Store, folder: Path, toy: Toy, tmp_path: Path, lineage: Lineage
) -> None:
    card = Card(toy.record.id.fingerprint, PruneIndex(2, 4, "given"), None, lineage)
    (folder / "onetrunk.json").write_bytes(card.to_json())
    version = store.publish("flowers", folder)
    assert version.manifest.lineage == lineage
    assert store.publish("flowers", store.export("flowers", tmp_path / "out")) == version
