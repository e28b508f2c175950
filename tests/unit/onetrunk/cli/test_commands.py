from __future__ import annotations

import csv
import gc
import io
import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from support.cli import call, commands, loaded, run
from support.oracle import make_task

import onetrunk.cli.app as onetrunk
from onetrunk.cli.parsing import parse_duration
from serving.addresses import absolute_catalogue, absolute_store
from store.errors import InvalidSettingError
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.weights.backbones import Backbone, load_backbone

VERSION_COLUMNS = {"task", "version", "aliases", "backbone", "depth", "blocks", "classes", "method", "nbytes", "digest"}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(DEFAULT_BACKBONE)


@pytest.fixture(scope="module")
def published(backbone, tmp_path_factory) -> Path:
    """A store of one task, `shapes`, of depth 3, made through the command line alone."""
    root = tmp_path_factory.mktemp("cli")
    made = make_task(backbone, root / "task", depth=3, classes=4)
    assert call("backbone", "add", DEFAULT_BACKBONE, store=root / "store").code == 0
    done = call(
        "publish", "shapes", str(made.folder), "--backbone", DEFAULT_BACKBONE, "--depth", "3", "--alias", "prod",
        store=root / "store",
    )  # fmt: skip
    assert done.code == 0
    return root / "store"


@pytest.mark.parametrize("words", commands(onetrunk.assemble()), ids=" ".join)
def test_every_command_has_help_with_an_example(words, tmp_path):
    done = call(*words, "--help", store=tmp_path)
    assert done.code == 0
    assert "Examples:" in done.out
    assert f"onetrunk {' '.join(words)}" in done.out


def test_every_command_is_found_in_its_file_alone_and_in_the_help_of_all():
    found = {words[0] for words in commands(onetrunk.assemble())}
    assert found == onetrunk.FILES.keys()
    for word in found:
        assert word in typer.main.get_command(onetrunk.assemble(word)).commands


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["ls"], ["show", "shapes"], ["report"], ["history", "shapes"], ["diff", "shapes", "shapes@prod"]],
    ids=" ".join,
)
def test_what_needs_no_tensor_imports_no_tensor_library(published, arguments):
    assert loaded(published, arguments, "torch", "timm", "peft", "ray", "sklearn", "numpy") == []


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["ls"], ["show", "shapes"], ["history", "shapes"], ["alias", "ls", "shapes"]],
    ids=" ".join,
)
def test_what_lists_waits_for_no_library_but_the_command_lines_own(published, arguments):
    assert loaded(published, arguments, "sqlalchemy", "rich", "jinja2", "importlib.resources", "obstore") == []


def test_ls_lists_the_fields_that_others_build_on_as_json_and_csv(published):
    (row,) = run("ls", "--format", "json", store=published).json
    expected = {"task": "shapes", "version": 1, "aliases": ["latest", "prod"]}
    expected |= {"depth": 3, "blocks": 12, "classes": 4, "method": "lora"}
    assert expected.items() <= row.items()
    assert row.keys() >= VERSION_COLUMNS | {"published_at", "removed_at", "tags"}
    (line,) = csv.DictReader(io.StringIO(call("ls", "--format", "csv", store=published).out))
    assert int(line["nbytes"]) == row["nbytes"]


def test_show_prints_the_manifest_whose_digest_names_the_version(published):
    with Store.open(published) as store:
        version = store.resolve("shapes@prod")
    assert call("show", "shapes@prod", "--format", "json", store=published).json == json.loads(
        version.manifest.to_json()
    )


def test_an_exported_folder_published_again_is_the_same_content(published, tmp_path):
    assert call("export", "shapes", str(tmp_path / "out"), store=published).code == 0
    again = call("publish", "copy", str(tmp_path / "out"), "--format", "json", store=published)
    assert again.json[0]["depth"] == 3
    with Store.open(published) as store:
        one, other = store.resolve("shapes").manifest, store.resolve("copy").manifest
    assert one.blobs == other.blobs


def test_predict_answers_in_process_with_the_fields_that_others_build_on(published, tmp_path):
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    done = call(
        "predict", "shapes", str(tmp_path / "a.png"), "--top", "2", "--logits", "--dtype", "float32",
        "--format", "json", store=published,
    )  # fmt: skip
    (answer,) = done.json
    assert (answer["image"], answer["task"], answer["version"], answer["depth"]) == (
        str(tmp_path / "a.png"), "shapes", 1, 3,
    )  # fmt: skip
    assert len(answer["top"]) == 2
    assert len(answer["logits"]) == 4


def test_predict_answers_what_it_can_and_names_each_file_that_it_cannot(published, tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "abc"]
    for path in paths:
        Image.new("RGB", (64, 64), "teal").save(path)
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:60])
    done = call("predict", "shapes", *paths, "--dtype", "float32", "--format", "json", store=published)
    assert done.code == 1
    assert [answer["image"] for answer in json.loads(done.out)] == [paths[0], paths[2]]
    named, last = done.err.splitlines()
    assert named.startswith(f"{paths[1]}: ")
    assert last == "ImageError: 1 of the files got no answer: each is named above with the reason"
    alone = call("predict", "shapes", paths[1], store=published)
    assert (alone.code, alone.out) == (1, "")
    assert alone.err.startswith(f"ImageError: {paths[1]}: ")


def test_report_in_every_format_tells_the_same_total(published):
    gc.collect()  # a catalogue that an earlier test left open keeps SQLite's log, which is gone once all are closed
    call("report", store=published)
    total = call("report", "--format", "json", store=published).json["places"]["physical_nbytes"]
    assert total == sum(path.stat().st_size for path in published.rglob("*") if path.is_file())
    for form in ("table", "md", "html"):
        done = call("report", "--format", form, store=published)
        assert f"Physical {total} B = live" in " ".join((done.out + done.err).split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "shape"], 1, "TaskNotFoundError: no task 'shape'"),
        (["show", "shapes:7"], 1, "VersionNotFoundError: no 'shapes:7'"),
        (["show", "../shapes"], 2, "InvalidNameError: task name '../shapes'"),
        (["show", "shapes", "--at", "yesterday"], 2, "InvalidSettingError: time 'yesterday'"),
        (["predict", "shapes", "nothing.png"], 2, "InvalidSettingError: 'nothing.png' is not a file"),
        (["backbone", "add", "vit_tiny_patch16_224", "--weights", "no.safetensors"], 1, "BackboneNotFoundError"),
        (["backbone", "add", "x", "--arg", "img_size"], 2, "is not KEY=VALUE"),
        (["publish", "shapes", "nowhere"], 1, "nowhere"),
        (["publish", "shapes", "nowhere", "--actor", "a\nb"], 2, "actor"),
        (["import", "nowhere.bundle"], 1, "nowhere.bundle"),
        (["import", "."], 2, "--as TASK"),
        (["export", "shapes", "copy", "out"], 2, "add --bundle"),
        (["export", "shapes", "out", "--bundle", "--layout", "hub"], 2, "--layout hub"),
        (["fit", "shapes", "nowhere/at/all.npz"], 1, "DataError"),
        (["ls", "shapes", "--search", "s"], 2, "leave out TASK"),
        (["ls", "--tag", "team"], 2, "is not KEY=VALUE"),
        (["gc", "--grace", "soon"], 2, "duration 'soon'"),
        (["alias", "rule", "shapes", "prod"], 2, "no rule was given"),
        (["alias", "rule", "shapes", "latest", "--protect"], 2, "follows every publish"),
        (["key", "add", "--scope", "write"], 2, "scopes 'write'"),
        (["key", "revoke", "0123"], 1, "no API key '0123'"),
        (["rebuild"], 1, "exists: move it away first"),
        (["serve", "--port", "99999"], 2, "99999"),
        (["shwo"], 2, "Did you mean 'show'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_with_one_line_on_stderr_and_its_exit_code(published, arguments, code, message):
    done = call(*arguments, store=published)
    assert done.code == code
    assert message in done.err
    assert done.out == ""
    if "Usage:" not in done.err:
        assert len(done.err.splitlines()) == 1


def test_a_mistake_ends_a_real_process_as_it_ends_the_call(published):
    done = run("show", "shape", store=published)
    assert (done.code, done.out) == (1, "")
    assert done.err == call("show", "shape", store=published).err


def test_a_store_that_is_not_there_is_told_with_what_to_do(tmp_path):
    done = call("ls", store=tmp_path / "nowhere")
    assert done.code == 1
    assert "make one with `open_store(url, create=True)`" in done.err


def test_doctor_finds_a_store_in_order_and_a_damaged_one(published, tmp_path):
    assert call("doctor", "--port", "0", store=published).code == 0
    with Store.open(tmp_path / "store", create=True) as store:
        blob = store.blobs.put(b"content")
        assert blob.nbytes == 7
    (tmp_path / "store" / "catalogue.sqlite").write_bytes(b"no database")
    done = call("doctor", "--port", "0", "--format", "json", store=tmp_path / "store")
    assert done.code == 1
    assert [check["what"] for check in json.loads(done.out) if not check["ok"]] == ["store"]


def test_a_servers_store_is_named_so_that_a_process_in_another_folder_finds_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_store("here") == str(tmp_path / "here")
    assert absolute_store("s3://models/vision") == "s3://models/vision"
    assert absolute_catalogue("sqlite:///c.sqlite") == f"sqlite:///{tmp_path}/c.sqlite"
    assert absolute_catalogue("postgresql+psycopg://db/models") == "postgresql+psycopg://db/models"
    assert absolute_catalogue(None) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("1.5s", 1.5), ("15m", 900), ("1h", 3600), ("14d", 14 * 86400)]
)
def test_a_duration_is_seconds_or_has_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1w", "1 h", "h", "1e9", "nan", "٣"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(InvalidSettingError, match="write seconds"):
        parse_duration(text)
