"""Pruning heads and MLP units, through the command line alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from support.cli import Shell
from support.narrow_twin import narrow_twin
from support.oracle import TaskFolder, make_peft_task
from support.peft_tasks import CONFIGS
from support.toy_backbone import Toy
from support.toy_datasets import colours, toy_backbone

from onetrunk.cli.width_options import WidthName
from sls.width.search import CRITERIA
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.registry.store import Store

QUICK = ("--backbone", "toy/vit", "--epochs", "1", "--retune-epochs", "1")
SEARCH = ("--search-epochs", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    task, path = colours(train=30, test=9), tmp_path_factory.mktemp("data") / "colours.npz"
    arrays = {"train_x": np.stack(task.train.images), "train_y": task.train.labels}
    arrays |= {"test_x": np.stack(task.test.images), "test_y": task.test.labels}
    np.savez(path, classes=np.array(task.classes), **arrays)
    return str(path)


@pytest.fixture(scope="module")
def shop(toy: Toy, data: str, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A store with a task of full width, and one that was pruned."""
    root = tmp_path_factory.mktemp("shop")
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
    shell = Shell(root / "store", root, toy)
    shell("fit", "whole", data, *QUICK, "--criterion", "ridge", "--tolerance", "0")
    done = shell(
        "fit", "narrow", data, *QUICK, "--width", "taylor", "--budget", "0.5", "--tokens", "0.6", *SEARCH,
        "--plot", str(root / "plots"),
    )  # fmt: skip
    assert "patches 38 of 64, 6 bytes of index" in done.err
    assert (root / "plots" / "widths.svg").exists()
    assert (root / "plots" / "tokens.svg").exists()
    return shell


def test_the_names_of_criteria_are_those_that_there_are() -> None:
    assert set(get_args(WidthName)) == set(CRITERIA)


def test_show_and_diff_and_the_report_tell_the_width(shop: Shell) -> None:
    width = WidthIndex(**shop.json("show", "narrow")["prune_index"]["width"])
    shown = shop("show", "narrow").out
    assert " ".join(map(str, width.units_kept)) in shown
    tokens = TokenIndex(**shop.json("show", "narrow")["prune_index"]["tokens"])
    assert sum(tokens.patches_kept) == 38
    assert " ".join(map(str, tokens.patches_kept)) in shown
    fields = {row["field"] for row in shop.json("diff", "narrow", "whole")}
    assert {"heads kept", "units kept", "width index", "patches kept", "token index"} <= fields
    rows = {row["task"]: row for row in shop.json("report")["tasks"]}
    assert rows["narrow"]["width_nbytes"] == width.nbytes + tokens.nbytes
    assert rows["narrow"]["saved_by_width_flops"] > 0
    assert (rows["whole"]["width_nbytes"], rows["whole"]["saved_by_width_flops"]) == (0, 0)


def test_width_says_what_each_budget_keeps_and_changes_nothing(shop: Shell, data: str, tmp_path: Path) -> None:
    before = shop("history", "whole").out
    points = shop.json("width", "whole", data, "--budgets", "0.4,1", "--tokens", "0.5", "--plot", str(tmp_path))
    assert [point["budget"] for point in points] == [0.4, 1.0]
    assert sum(points[0]["units_kept"]) < sum(points[1]["units_kept"])
    assert sum(points[1]["patches_kept"]) == 8 * points[1]["depth"]
    assert points[0]["flops"] < points[1]["flops"] < 0.6
    assert (tmp_path / "width-curve.svg").exists()
    assert shop("history", "whole").out == before


def test_budgets_publish_nothing_and_the_pruned_task_is_not_pruned_again(shop: Shell, data: str) -> None:
    before = shop("ls").out
    points = shop.json("fit", "other", data, *QUICK, "--width", "magnitude", "--budgets", "0.5", "--with-depth")
    assert points[0]["depth"] <= 4
    assert shop("ls").out == before
    assert "give the whole task" in shop("width", "narrow", data, code=2).err


def test_an_ordered_copy_is_a_backbone_whose_tasks_keep_three_bytes_a_block(shop: Shell, data: str) -> None:
    (row,) = shop.json("backbone", "order", "toy/vit", "--as", "toy/ordered")
    assert row["fingerprint"] != shop.toy.record.id.fingerprint
    options = ("--backbone", "toy/ordered", "--epochs", "1", "--retune", "none", "--width", "magnitude")
    shop("fit", "first", data, *options, "--budget", "0.6")
    width = WidthIndex(**shop.json("show", "first")["prune_index"]["width"])
    assert (width.is_prefix, width.nbytes) == (True, 12)


def test_a_history_of_torch_pruning_becomes_the_width_of_a_folder(shop: Shell, tmp_path: Path) -> None:
    width = WidthIndex.of([(0b111, (1 << 192) - 2), *[(0b111, (1 << 192) - 1)] * 3], heads=3, units=192)
    targets = ["blocks.0.mlp.fc1"]
    twin = narrow_twin(toy_backbone(), width)
    made = make_peft_task(twin, TaskFolder(tmp_path / "made", 4), CONFIGS["lora"](targets, 2), classes=3)
    history = tmp_path / "history.json"
    history.write_text(json.dumps([["blocks.0.mlp.fc1", True, [0]]]))
    words = ("publish", "pruned", str(made.folder), "--backbone", "toy/vit", "--pruning-history", str(history))
    shop(*words)
    assert WidthIndex(**shop.json("show", "pruned")["prune_index"]["width"]) == width
    history.write_text(json.dumps([["patch_embed.proj", True, [0]]]))
    assert "changes the width that all blocks share" in shop(*words, code=1).err


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--budget", "0.5"), "need --width: add it"),
        (("--tokens", "0.5"), "need --width: add it"),
        (("--width", "magnitude", "--tokens", "0.5"), "prune tokens by vit-slim or taylor"),
        (("--width", "taylor", "--tokens", "0"), "Invalid value for '--tokens'"),
        (("--width", "taylor", "--tokens", "0.5", "--method", "convpass"), "convolves the whole grid of patches"),
        (("--width", "taylor", "--budgets", "0.5,2"), "--budgets '0.5,2' is not valid"),
        (("--width", "taylor", "--budgets", "half"), "--budgets 'half' is not valid"),
        (("--width", "taylor", "--when", "before"), "a width is chosen from a tuned model"),
        (("--width", "taylor", "--budget", "0"), "Invalid value for '--budget'"),
        (("--width", "taylor", "--budget", "1.5"), "Invalid value for '--budget'"),
    ],
)
def test_options_that_fit_no_width_are_refused_before_anything_is_tuned(
    shop: Shell, data: str, words: tuple[str, ...], rule: str
) -> None:
    assert rule in shop("fit", "never", data, *QUICK, *words, code=2).err
