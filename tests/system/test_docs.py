"""What docs/store.md says runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import call, commands
from support.oracle import make_task

from onetrunk.cli.app import assemble
from store.records.backbone import DEFAULT_BACKBONE
from store.records.evidence import Accuracy, Certificate, PruneIndex
from store.records.manifest import Card
from store.registry.store import Store
from store.weights.backbones import Backbone, load_backbone

TEXT = (Path(__file__).parents[2] / "docs" / "store.md").read_text("utf-8")
BLOCK = re.compile(r"(?:<!-- test: (?P<before>\w+) -->\n)?```sh(?P<kind>[^\n]*)\n(?P<lines>.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(DEFAULT_BACKBONE)


@pytest.fixture
def here(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two task folders that the page mentions, as `onetrunk fit` leaves them."""
    for seed, (name, right) in enumerate({"checkpoint": 89, "retuned": 90}.items()):
        made = make_task(backbone, tmp_path / name, depth=7, classes=3, seed=seed)
        certificate = Certificate(Accuracy(90, 100), Accuracy(right, 100))
        card = Card(backbone.record.id.fingerprint, PruneIndex(7, 12, "tsne-silhouette"), certificate)
        (made.folder / "onetrunk.json").write_bytes(card.to_json())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(kind: str) -> Iterator[tuple[str | None, list[str]]]:
    """Yield each block of commands of this kind, with what the test must do before it."""
    for found in BLOCK.finditer(TEXT):
        if found["kind"].strip() == kind:
            yield found["before"], found["lines"].splitlines()


def damage(here: Path) -> None:
    with Store.open(here / "onetrunk-store") as store:
        path = Path(store.blobs.locate(store.resolve("garden/flowers@prod").manifest.adapter.weights))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


BEFORE: dict[str | None, Callable[[Path], None]] = {None: lambda _here: None, "damage": damage}


def run_line(line: str, store: str) -> None:
    """Run one line: `onetrunk` in this process, all else by the shell; it must end as its comment says, or well."""
    expected = 1 if "# exits with 1" in line else 0
    words = shlex.split(line, comments=True)
    if words[0] != "onetrunk":
        assert subprocess.run(["bash", "-ec", line], check=False).returncode == expected, line
        return
    done = call(*words[1:], store=store)
    assert done.code == expected, (line, done)


def test_every_command_of_the_page_does_what_the_page_says(here):
    for before, lines in blocks(""):
        BEFORE[before](here)
        for line in lines:
            run_line(line, "onetrunk-store")


@pytest.mark.service
@pytest.mark.usefixtures("here")
def test_the_same_commands_work_on_a_bucket_and_a_server(bucket, database, monkeypatch):
    ((_, (export, *lines)),) = blocks("service")
    assert re.fullmatch(r"export ONETRUNK_STORE=s3://\S+ ONETRUNK_CATALOGUE=postgresql\S+", export)
    monkeypatch.setenv("ONETRUNK_CATALOGUE", database)
    for line in lines:
        run_line(line, bucket)


def test_every_command_that_the_page_names_exists():
    words = {" ".join(found) for found in commands(assemble())}
    groups = {word.split()[0] for word in words if " " in word}
    named = re.findall(r"onetrunk ((?:[a-z]+ )?[a-z]+)", TEXT)
    called = {name if name.split()[0] in groups else name.split()[0] for name in named}
    assert called - words == set()
