"""Tuning and cutting, through the command line alone."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.cli import Shell, loaded
from support.odd_sources import pets
from support.toy_backbone import Toy
from support.toy_datasets import haze

import onetrunk.cli.fit_options as onetrunk_options
import onetrunk.cli.recipe_options as recipe_options
from onetrunk.cli.commands.fit import log_index
from sls.adapters.methods import METHODS
from sls.adapters.task_folder import DTYPES
from sls.pipeline.config import WHEN
from sls.pipeline.retune import MODES
from sls.scoring.criteria import CRITERIA
from sls.training.recipe import RATES
from store.adapters.checkpoint import CARD
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.registry.store import Store

QUICK = ("--backbone", "toy/vit", "--epochs", "1", "--retune-epochs", "1", "--criterion", "ridge", "--tolerance", "0.2")
FILES = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "classes.txt", "onetrunk.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hazy colours as an .npz file."""
    task, path = haze(train=60), tmp_path_factory.mktemp("data") / "haze.npz"
    arrays = {"train_x": np.stack(task.train.images), "train_y": task.train.labels}
    arrays |= {"test_x": np.stack(task.test.images), "test_y": task.test.labels}
    np.savez(path, classes=np.array(task.classes), **arrays)
    return str(path)


@pytest.fixture(scope="module")
def shop(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The command line on a store that the tests of this file share."""
    root = tmp_path_factory.mktemp("shop")
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
    return Shell(root / "store", root, toy)


@pytest.fixture(scope="module")
def published(shop: Shell, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, str, Path]:
    """A task `haze`, fitted and published; what was said on stderr; and the folder of `full`, `cut` and `plots`."""
    out = tmp_path_factory.mktemp("out")
    words = ("--retune", "head", "--max-drop", "100", "--out", str(out), "--plot", str(out / "plots"))
    words += ("--save-dtype", "float16")
    done = shop("fit", "haze", data, *QUICK, *words, "--format", "json")
    assert [row["task"] for row in done.json] == ["haze"]
    return shop, done.err, out


def test_a_fit_tells_its_stages_the_cut_and_what_it_costs(published):
    shop, told, _ = published
    found = shop.json("show", "haze")["certificate"]["validation"]
    gained = 100 * (found["cut"]["correct"] - found["full"]["correct"]) / found["full"]["total"]
    assert "tune 1/1, loss" in told
    assert "score 4/4, score" in told
    assert "ridge, threshold" in told
    assert f"validation accuracy at the cut, against full depth: {gained:+.2f} points" in told
    assert re.search(r"macro F1: \d+\.\d%\nweakest classes: \w+ \(F1 ", told)


def test_show_tells_the_whole_certificate(published):
    shop, _, _ = published
    shown = shop("show", "haze").out
    manifest = shop.json("show", "haze")
    found, curve = manifest["certificate"], manifest["certificate"]["curve"]
    for words, one in (("accuracy full", found["full"]), ("validation cut", found["validation"]["cut"])):
        (line,) = [line for line in shown.splitlines() if line.startswith(words)]
        assert f"{one['correct'] / one['total']:.1%} [" in line
        assert f"on {one['total']} held-out images" in line
    rates = " ".join(f"{one['correct'] / one['total']:.1%}" for one in curve)
    assert len(curve) == 4
    assert rates in shown
    assert "points allowed to lose" in shown
    assert manifest["lineage"]["recipe"]["retune_mode"] == "head"


def test_a_fit_draws_its_scores(published):
    _, told, out = published
    assert f"picture: {out / 'plots' / 'depths.svg'}" in told
    assert f"table of the classes: {out / 'plots' / 'classes.csv'}" in told
    pictures = ("depths", "curves", "confusion", "worst", "calibration")
    drawn = {f"{name}.{kind}" for name in pictures for kind in ("svg", "png")}
    assert {path.name for path in (out / "plots").iterdir()} == {*drawn, "classes.csv"}


def test_show_tells_the_classes_the_calibration_and_what_16_bits_cost(published):
    shop, _, out = published
    found = shop.json("show", "haze")
    counts, calibration = found["certificate"]["class_counts"], found["certificate"]["calibration"]
    shown = dict(line.split("  ", 1) for line in shop("show", "haze").out.splitlines() if "  " in line)
    assert sum(counts["images"]) == len(haze().test)
    assert {name for name in haze().classes if name in shown["weakest classes"]} == {"red", "green", "blue"}
    assert f"at temperature {calibration['temperature']:g}, which is not served" in shown["calibration error"]
    assert "held-out images" in shown["points lost by float16"]
    assert found["certificate"]["rounding"]["dtype"] == "float16"
    assert float(shown["learning rate"]) == found["lineage"]["recipe"]["tune"]["learning_rate"] == RATES["lora"]
    exported = out / "exported"
    shop("export", "haze", str(exported))
    tensors = load_file(exported / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (exported / name).read_bytes() == (out / "cut" / name).read_bytes()


def test_cut_scores_from_the_top_and_with_all_every_block(published, data):
    shop, _, out = published
    words = ("cut", str(out / "full"), data, "--criterion", "cka", "--alpha", "0.99")
    scores, every = shop.json(*words)["scores"], shop.json(*words, "--all")["scores"]
    scored = [score for score in scores if score is not None]
    assert None not in every
    assert scores == [*[None] * (4 - len(scored)), *every[4 - len(scored) :]]
    assert 1 < len(scored) < 4


def test_parity_is_the_authors_code(published, data):
    shop, _, _ = published
    found = shop.json("cut", "haze", data, "--parity")
    assert (found["criterion"], found["alpha"]) == ("sls-authors", 0.3)


def test_cut_draws_the_scores_and_the_maps(published, data, tmp_path):
    shop, _, _ = published
    done = shop("cut", "haze", data, "--criterion", "ncm", "--plot", str(tmp_path / "new"))
    drawn = {path.name for path in (tmp_path / "new").iterdir()}
    assert drawn == {"depths.svg", "depths.png", "maps.svg", "maps.png"}
    assert done.err.count("picture: ") == 2


def test_any_method_is_tuned_where_nothing_is_published(shop, data, tmp_path):
    words = ("--method", "convpass", "--scale", "0.5", "--retune", "none", "--out", str(tmp_path), "--no-publish")
    row = shop.json("fit", "new", data, *QUICK, *words)
    assert (row["task"], row["folder"], row["blocks"]) == ("new", str(tmp_path / "cut"), 4)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FILES
    card = Card.from_json((tmp_path / "cut" / CARD).read_bytes())
    assert card.prune_index.depth == row["depth"]
    assert [card.lineage.recipe[stage]["scale"] for stage in ("tune", "retune")] == [0.5, 0.5]
    assert row["accuracy"] == card.certificate.cut.value
    assert "new" not in [row["task"] for row in shop.json("ls")]


def test_a_fit_that_is_not_published_makes_no_store(data, tmp_path, shop):
    nowhere = Shell(tmp_path / "nowhere", tmp_path, shop.toy)
    words = ("--out", str(tmp_path / "out"), "--no-publish", "--backbone", "no/such")
    assert "BackboneNotFoundError" in nowhere("fit", "new", data, *words, code=1).err
    assert not (tmp_path / "nowhere").exists()


def test_before_tuning_what_was_not_measured_is_said(shop, data, tmp_path):
    done = shop("fit", "early", data, *QUICK, "--when", "before", "--out", str(tmp_path), "--format", "json")
    assert "what the cut costs is not known; --max-drop tunes one to compare with" in done.err
    found = shop.json("show", "early")["certificate"]
    assert (found["full"], found["cut"]["total"]) == (None, len(haze().test))
    assert not (tmp_path / "full").exists()


def test_an_early_cut_begins_with_one_epoch_at_full_depth(shop, data, tmp_path):
    done = shop("fit", "sooner", data, *QUICK, "--when", "early", "--out", str(tmp_path))
    assert "begin 1/1, loss" in done.err
    assert "tune 1/1, loss" in done.err
    assert shop.json("show", "sooner")["lineage"]["recipe"]["when"] == "early"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parity"], "--parity is sls-authors at alpha 0.3: leave out --criterion ridge"),
        (["--no-publish"], "add --out DIR for the folders"),
        (["--no-publish", "--out", "here", "--alias", "prod"], "leave out --alias and --parent"),
        (["--when", "before", "--retune", "head"], "leave out --retune head"),
        (["--when", "early", "--retune", "head"], "leave out --retune head"),
        (["--when", "later"], "'later' is not one of 'after', 'before', 'early'"),
        (["--method", "prefix"], "'prefix' is not one of 'lora', 'rslora'"),
        (["--retune", "again"], "'again' is not one of 'constant', 'rewind'"),
        (["--tolerance", "1"], "1.0 is not in the range"),
        (["--max-drop", "-1"], "-1.0 is not in the range"),
        (["--out", "pyproject.toml"], "--out pyproject.toml is a file: give a folder"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--from-block", "9"], "adapters from block 9: toy/vit has 4; choose 1..4"),
        (["--from-block", "5", "--when", "before"], "adapters from block 5: toy/vit has 4; choose 1..4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_before_anything_is_trained(shop, data, words, message):
    done = shop("fit", "new", data, *QUICK, *words, code=2)
    assert message in " ".join(done.err.replace("│", " ").split())
    assert "tune 1/1" not in done.err


def test_data_that_cannot_be_read_makes_no_store(shop, tmp_path):
    nowhere = Shell(tmp_path / "nowhere", tmp_path, shop.toy)
    assert "no data at './missing'" in nowhere("fit", "new", "./missing", code=1).err
    assert "no data at" in nowhere("fit", "new", os.fsdecode(b"missing\xff"), code=1).err
    assert not (tmp_path / "nowhere").exists()


def test_a_result_does_not_go_into_the_data(shop, tmp_path):
    pets(tmp_path / "pets")
    for option in ("--out", "--plot"):
        told = shop("fit", "new", str(tmp_path / "pets"), option, str(tmp_path / "pets" / "out"), code=2).err
        assert f"{option} {tmp_path / 'pets' / 'out'} is within the data" in told


def test_what_is_left_out_of_the_data_is_told_and_duplicates_are_counted_in_the_certificate(shop, tmp_path):
    root = pets(tmp_path / "pets")
    (root / "cat" / "notes.txt").write_text("none")
    shutil.copy(root / "cat" / "0.png", root / "dog" / "same.png")
    words = ("fit", "pets", str(root), *QUICK)
    assert "go on with `allow_duplicates=True` (--allow-duplicates)" in shop(*words, code=1).err
    told = shop(*words, "--allow-duplicates").err
    assert f"data: left out, not an image: 1 ({root}/cat/notes.txt)" in told
    assert "data: allowed: 1 image has the pixels" in told
    assert shop.json("show", "pets")["certificate"]["duplicates"] == 1
    assert "duplicates allowed" in shop("show", "pets").out


def test_a_gate_that_is_not_met_leaves_a_folder_that_publish_takes(shop, data):
    shop("alias", "rule", "gated", "prod", "--min-accuracy", "1")
    told = shop("fit", "gated", data, *QUICK, "--alias", "prod", code=1).err
    (note,) = [line for line in told.splitlines() if line.startswith("the tuned task is kept in ")]
    assert note.endswith("(onetrunk publish TASK FOLDER)")
    folder = note.removeprefix("the tuned task is kept in ").partition(": ")[0]
    assert shop.json("publish", "gated", folder)[0]["version"] == 1


def test_cut_refuses_data_of_other_classes(published, tmp_path):
    shop, _, out = published
    told = shop("cut", str(out / "full"), str(pets(tmp_path / "pets")), code=1).err
    assert "pets has 2 classes" in told
    assert "'cat' is only in the data: give the data that the task was tuned for" in told


def test_an_index_that_is_undecided_is_said_with_the_depths_that_it_leaves_open(capsys):
    log_index(PruneIndex(depth=5, blocks=12, criterion="sls", threshold=0.21, candidates=(3, 5)))
    assert "undecided: scores within their noise of the threshold leave depths 3 and 5 open" in capsys.readouterr().err
    log_index(PruneIndex(depth=5, blocks=12, criterion="sls", threshold=0.21))
    assert capsys.readouterr().err == "depth 5 of 12, sls, threshold 0.210\n"


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (onetrunk_options.CriterionName, CRITERIA),
        (onetrunk_options.MethodName, METHODS),
        (onetrunk_options.ModeName, MODES),
        (onetrunk_options.WhenName, WHEN),
        (recipe_options.DtypeName, DTYPES),
    ],
)
def test_the_command_line_offers_what_there_is(names, table):
    assert sorted(get_args(names)) == sorted(table)


@pytest.mark.parametrize("command", ["fit", "cut"])
def test_help_imports_no_tensor_library(command, tmp_path):
    watched = ("torch", "timm", "peft", "sklearn", "numpy", "matplotlib")
    assert loaded(tmp_path, [command, "--help"], *watched) == []
