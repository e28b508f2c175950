"""The recipe on the command line: options, a file of them, and the plan that --dry-run prints."""

from __future__ import annotations

import pytest
from support.cli import Shell
from support.odd_sources import pets
from support.toy_backbone import Toy

from sls.training.recipe import RATES
from store.registry.store import Store

QUICK = ("--backbone", "toy/vit", "--epochs", "1", "--retune-epochs", "1", "--criterion", "cka")


@pytest.fixture(scope="module")
def shop(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    root = tmp_path_factory.mktemp("recipe")
    with Store.open(root / "store", create=True) as opened:
        opened.add_backbone(toy.record, toy.weights)
    pets(root / "pets")
    return Shell(root / "store", root, toy)


@pytest.fixture
def data(shop: Shell) -> str:
    return str(shop.folder / "pets")


def test_the_recipe_is_in_the_lineage_and_the_command_line_goes_before_the_file(shop, data, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'lr = 0.01\nbatch-size = 4\nweight_decay = 0.0\naugment = "light"\nepochs = 7\nmethod = "ssf"\nseed = 5\n'
    )
    words = ("--config", str(file), "--lr", "0.002", "--label-smoothing", "0.1", "--class-weights", "balanced")
    shop("fit", "pets", data, *QUICK, *words, "--mixup", "0.2", "--warmup", "0.2")
    recipe = shop.json("show", "pets")["lineage"]["recipe"]
    for stage in ("tune", "retune"):
        found = {name: recipe[stage][name] for name in ("learning_rate", "batch", "weight_decay", "augment", "seed")}
        assert found == {"learning_rate": 0.002, "batch": 4, "weight_decay": 0.0, "augment": "light", "seed": 5}
        assert recipe[stage]["method"] == "ssf"
        assert [recipe[stage][name] for name in ("warmup", "label_smoothing", "class_weights", "mixup")] == [
            0.2, 0.1, "balanced", 0.2,
        ]  # fmt: skip
    assert recipe["tune"]["epochs"] == 1


FILES = {
    "an unknown key": ("learning = 1", "'learning' is not an option"),
    "a key that is nearly right": ("batchsize = 1", "did you mean batch-size?"),
    "a table": ("[lr]\nx = 1", "give it a value"),
    "no TOML": ("lr: 0.1", "is not TOML in UTF-8"),
    "a value out of range": ("batch-size = 0", "0 is not in the range"),
    "a value of another type": ('lr = "fast"', "'fast' is not a valid float"),
    "a choice that is none": ('method = "prefix"', "'prefix' is not one of"),
    "NaN": ("lr = nan", "give it a value"),
}


@pytest.mark.parametrize(("text", "message"), FILES.values(), ids=list(FILES))
def test_a_file_that_is_no_recipe_is_refused_with_the_line_that_is_wrong(shop, data, tmp_path, text, message):
    (tmp_path / "recipe.toml").write_text(text)
    told = shop("fit", "new", data, "--config", str(tmp_path / "recipe.toml"), code=2).err
    assert message in " ".join(told.replace("│", " ").split())


def test_a_file_that_is_missing_is_refused(shop, data):
    assert "no file gone.toml" in shop("fit", "new", data, "--config", "gone.toml", code=2).err


def test_a_dry_run_prints_the_plan_and_changes_nothing(shop, data, tmp_path):
    before = shop.json("ls")
    words = (
        "fit",
        "plan",
        data,
        *QUICK,
        "--epochs",
        "3",
        "--batch-size",
        "5",
        "--out",
        str(tmp_path / "out"),
        "--dry-run",
    )
    plan = shop.json(*words)
    images = plan["images"]
    train = sum(images["train"].values())
    assert sum(sum(counts.values()) for counts in images.values()) == 16
    assert plan["steps to tune"] == 3 * -(-train // 5)
    assert plan["steps to retune"] == -(-train // 5)
    assert plan["nbytes"] > 0
    assert plan["minutes, about"] >= 0
    done = shop(*words)
    assert "cat" in done.out
    assert "nothing was changed" in done.err
    assert shop.json("ls") == before
    assert not (tmp_path / "out").exists()


def test_a_dry_run_makes_no_store(shop, data, tmp_path):
    nowhere = Shell(tmp_path / "nowhere", tmp_path, shop.toy)
    nowhere("fit", "plan", data, "--epochs", "1", "--dry-run")
    assert not (tmp_path / "nowhere").exists()


def test_the_plan_says_the_methods_own_rate_or_the_one_that_is_given(shop, data):
    words = ("fit", "plan", data, *QUICK, "--method", "bitfit", "--dry-run")
    assert shop.json(*words)["learning rate"] == RATES["bitfit"]
    assert shop.json(*words, "--lr", "0.002")["learning rate"] == 0.002


def test_the_plan_of_an_early_cut_begins_with_one_epoch_and_16_bits_take_half_the_bytes(shop, data):
    plan = shop.json("fit", "plan", data, *QUICK, "--when", "early", "--dry-run")
    assert [key for key in plan if key.startswith("steps to")] == ["steps to begin", "steps to tune"]
    words = ("fit", "plan", data, *QUICK, "--dry-run", "--save-dtype")
    assert 2 * shop.json(*words, "bfloat16")["nbytes"] == shop.json(*words, "float32")["nbytes"]


def test_the_plan_of_one_training_has_one_stage(shop, data):
    plan = shop.json("fit", "plan", data, *QUICK, "--when", "before", "--dry-run")
    assert [key for key in plan if key.startswith("steps to")] == ["steps to tune"]
