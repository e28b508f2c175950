"""The runbooks of docs/deploy.md, each on a store in the state that it is for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from support.cli import call
from support.oracle import make_task

from store.records.backbone import DEFAULT_BACKBONE
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store
from store.weights.backbones import encode, load_backbone

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "deploy.md").read_text("utf-8")
BLOCK = re.compile(r"```sh runbook ([\w-]+)\n(.*?)```", re.DOTALL)
TASK = "garden/flowers"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of two versions, the second of which is the wrong one that the alias names; its folder is at hand."""
    backbone = load_backbone(DEFAULT_BACKBONE)
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for seed, (name, right) in enumerate({"checkpoint": 90, "retuned": 90}.items()):
            made = make_task(backbone, tmp_path / name, depth=7, classes=3, seed=seed)
            certificate = Certificate(Accuracy(90, 100), Accuracy(right, 100))
            card = Card(backbone.record.id.fingerprint, PruneIndex(7, 12, "tsne-silhouette"), certificate)
            (made.folder / "onetrunk.json").write_bytes(card.to_json())
            store.publish(TASK, made.folder, backbone=DEFAULT_BACKBONE, depth=7, aliases=("prod",))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def damage(root: Path) -> None:
    with Store.open(root) as store:
        path = Path(store.blobs.locate(store.resolve(f"{TASK}:2").manifest.adapter.weights))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def as_it_is(_root: Path) -> None:
    """Leave the store with the wrong version behind the alias, or with what gc may free."""


STATES: Mapping[str, Callable[[Path], None]] = {
    "bad-alias": as_it_is, "corrupt-blob": damage, "disk-full": as_it_is,
}  # fmt: skip


def test_every_runbook_that_is_marked_has_a_state():
    assert [name for name, _ in BLOCK.findall(TEXT)] == list(STATES)


@pytest.mark.parametrize("name", STATES)
def test_a_runbook_does_what_it_is_for(name: str, store: Path) -> None:
    STATES[name](store)
    for line in dict(BLOCK.findall(TEXT))[name].splitlines():
        expected = 1 if "# exits with 1" in line else 0
        done = call(*shlex.split(line, comments=True)[1:], store=store)
        assert done.code == expected, (line, done)
    with Store.open(store) as opened:
        served = opened.resolve(f"{TASK}@prod").number
        assert served == (2 if name == "disk-full" else 1)
    assert call("verify", store=store).code == 0


def test_every_alert_that_a_runbook_names_is_one_and_no_mishap_lacks_its_runbook():
    alerts = {rule["alert"] for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
              for rule in group["rules"] if "alert" in rule}  # fmt: skip
    named = set(re.findall(r"`(Onetrunk\w+)`", TEXT))
    assert named
    assert named <= alerts
    runbooks = TEXT.partition("## Runbooks")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+)$", runbooks, re.MULTILINE) == [
        "Bad alias", "Corrupt blob", "Disk full", "S3 or PostgreSQL down", "Replica killed", "Node lost",
    ]  # fmt: skip
