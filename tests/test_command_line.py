from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from reference import make_task

import onetrunk
from store.backbones import DEFAULT_BACKBONE, Backbone, load_backbone
from store.store import Store


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(DEFAULT_BACKBONE)


@pytest.fixture(scope="module")
def published(backbone, tmp_path_factory) -> Path:
    """A store of one task, `shapes`, of depth 3, made through the command line alone."""
    root = tmp_path_factory.mktemp("cli")
    made = make_task(backbone, root / "task", depth=3, classes=4)
    assert run("backbone", "add", DEFAULT_BACKBONE, store=root / "store").code == 0
    done = run(
        "publish", "shapes", str(made.folder), "--backbone", DEFAULT_BACKBONE, "--depth", "3", "--alias", "prod",
        store=root / "store",
    )  # fmt: skip
    assert done.code == 0
    return root / "store"


class Done:
    """What a command printed, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def run(*arguments: str, store: Path) -> Done:
    """Run the command as a user does, in a process of its own."""
    environment = {**os.environ, "ONETRUNK_STORE": str(store)}
    command = [sys.executable, str(Path(onetrunk.__file__)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def commands(app: typer.Typer, *prefix: str) -> list[tuple[str, ...]]:
    """Every command by the words that call it."""
    group = typer.main.get_command(app)
    words: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        nested = getattr(command, "commands", None)
        words += [(*prefix, name, inner) for inner in nested] if nested else [(*prefix, name)]
    return words


@pytest.mark.parametrize("words", commands(onetrunk.app), ids=" ".join)
def test_every_command_has_help_with_an_example(words, capsys):
    with pytest.raises(SystemExit) as end:
        onetrunk.app([*words, "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "Examples:" in shown
    assert f"onetrunk {' '.join(words)}" in shown


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["show", "shapes"], ["report"], ["history", "shapes"]])
def test_what_needs_no_tensor_imports_no_tensor_library(published, arguments):
    watched = ("torch", "timm", "peft", "ray", "sklearn", "numpy")
    program = (
        "import sys, onetrunk\n"
        f"try: onetrunk.app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print('loaded:', [name for name in {watched!r} if name in sys.modules])\n"
    )
    environment = {**os.environ, "ONETRUNK_STORE": str(published)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_ls_lists_the_fields_that_others_build_on_as_json_and_csv(published):
    (row,) = json.loads(run("ls", "--format", "json", store=published).out)
    expected = {"task": "shapes", "version": 1, "aliases": ["latest", "prod"]}
    expected |= {"depth": 3, "blocks": 12, "classes": 4, "method": "lora"}
    assert expected.items() <= row.items()
    (line,) = csv.DictReader(io.StringIO(run("ls", "--format", "csv", store=published).out))
    assert int(line["nbytes"]) == row["nbytes"]


def test_show_prints_the_manifest_whose_digest_names_the_version(published):
    with Store.open(published) as store:
        version = store.resolve("shapes@prod")
    manifest = json.loads(run("show", "shapes@prod", "--format", "json", store=published).out)
    assert manifest == json.loads(version.manifest.to_json())


def test_an_exported_folder_published_again_is_the_same_content(published, tmp_path):
    assert run("export", "shapes", str(tmp_path / "out"), store=published).code == 0
    again = run("publish", "copy", str(tmp_path / "out"), "--format", "json", store=published)
    assert json.loads(again.out)[0]["depth"] == 3
    with Store.open(published) as store:
        one, other = store.resolve("shapes").manifest, store.resolve("copy").manifest
    assert one.blobs == other.blobs


def test_predict_answers_in_process_with_the_fields_that_others_build_on(published, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    done = run(
        "predict", "shapes", str(tmp_path / "a.png"), "--top", "2", "--logits", "--dtype", "float32",
        "--format", "json", store=published,
    )  # fmt: skip
    (answer,) = json.loads(done.out)
    assert (answer["image"], answer["task"], answer["version"], answer["depth"]) == (
        str(tmp_path / "a.png"), "shapes", 1, 3,
    )  # fmt: skip
    assert len(answer["top"]) == 2
    assert len(answer["logits"]) == 4


def test_report_in_every_format_tells_the_same_total(published):
    total = json.loads(run("report", "--format", "json", store=published).out)["total_nbytes"]
    assert total == sum(path.stat().st_size for path in published.rglob("*") if path.is_file())
    for form in ("table", "md", "html"):
        done = run("report", "--format", form, store=published)
        assert f"Total {total} B = live" in " ".join((done.out + done.err).split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "shape"], 1, "TaskNotFoundError: no task 'shape'"),
        (["show", "shapes:7"], 1, "VersionNotFoundError: no 'shapes:7'"),
        (["show", "../shapes"], 2, "InvalidNameError: task name '../shapes'"),
        (["predict", "shapes", "nothing.png"], 2, "InvalidSettingError: 'nothing.png' is no file"),
        (["backbone", "add", "vit_tiny_patch16_224", "--weights", "no.safetensors"], 1, "BackboneNotFoundError"),
        (["backbone", "add", "x", "--arg", "img_size"], 2, "is not KEY=VALUE"),
        (["publish", "shapes", "nowhere"], 1, "nowhere"),
        (["fit", "shapes", "nowhere/at/all.npz"], 1, "DataError"),
        (["serve", "--port", "99999"], 2, "99999"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_with_one_line_on_stderr_and_its_exit_code(published, arguments, code, message):
    done = run(*arguments, store=published)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_store_that_is_not_there_is_told_with_what_to_do(tmp_path):
    done = run("ls", store=tmp_path / "nowhere")
    assert done.code == 1
    assert "make one with `onetrunk demo`" in done.err


def test_doctor_finds_a_store_in_order_and_a_damaged_one(published, tmp_path):
    assert run("doctor", "--port", "0", store=published).code == 0
    with Store.open(tmp_path / "store", create=True) as store:
        blob = store.blobs.put(b"content")
        assert blob.nbytes == 7
    (tmp_path / "store" / "catalogue.sqlite").write_bytes(b"no database")
    done = run("doctor", "--port", "0", "--format", "json", store=tmp_path / "store")
    assert done.code == 1
    assert [check["what"] for check in json.loads(done.out) if not check["ok"]] == ["store"]
