"""A fit that prunes the width: its folders, its certificate and its bounds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.toy_datasets import colours, haze, toy_backbone

from sls.adapters.task_folder import read_folder
from sls.evaluation import accuracy_of
from sls.pipeline.fit import FitConfig, fit, fit_budgets
from sls.training.recipe import TrainingConfig
from sls.width.search import WidthConfig
from store.errors import InvalidSettingError
from store.records.manifest import Card
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
SMALL = colours(train=16, validation=6, test=6)
QUICK = FitConfig(
    tune=TrainingConfig(epochs=2),
    retune=TrainingConfig(epochs=1),
    width=WidthConfig("taylor", budget=0.5, epochs=1),
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return fit(colours(), BACKBONE, out=tmp_path_factory.mktemp("fit"), config=QUICK)


def test_the_folder_has_the_width_and_the_accuracy_that_its_model_has(fitted):
    card = Card.from_json((fitted.cut / "onetrunk.json").read_bytes())
    width = card.prune_index.width
    assert width is not None
    assert width == fitted.index.width
    assert sum(width.units_kept) == 4 * 192 // 2
    model = read_folder(fitted.cut, BACKBONE)
    assert [block.attn.num_heads for block in model.vit.blocks] == list(width.heads_kept)
    measured = accuracy_of(model, colours().test, make_transform(BACKBONE.record.id.preprocessing))
    assert measured == card.certificate.cut
    assert card.certificate.full.value > 0.9
    assert card.certificate.validation is not None


def test_the_whole_task_stays_beside_it(fitted):
    assert Card.from_json((fitted.full / "onetrunk.json").read_bytes()).prune_index.width is None


def test_the_same_fit_gives_the_same_bytes(fitted, tmp_path):
    again = fit(colours(), BACKBONE, out=tmp_path, config=QUICK)
    for name in ("adapter_model.safetensors", "head.safetensors", "onetrunk.json"):
        assert (again.cut / name).read_bytes() == (fitted.cut / name).read_bytes()


@pytest.mark.parametrize(
    ("mode", "method"), [("none", "ssf"), ("head", "dora"), ("constant", "vera"), ("scratch", "lora")]
)
def test_every_way_to_tune_again_leaves_a_folder_that_is_read(tmp_path, mode, method):
    config = replace(QUICK, retune_mode=mode, tune=replace(QUICK.tune, method=method, epochs=1))
    result = fit(SMALL, BACKBONE, out=tmp_path, config=config)
    with torch.inference_mode():
        assert read_folder(result.cut, BACKBONE).vit(torch.zeros(1, 3, 32, 32)).shape == (1, 48)


def test_a_width_that_loses_too_much_is_raised_and_says_so(tmp_path):
    config = replace(QUICK, max_drop=0.0, width=WidthConfig("magnitude", budget=0.1), retune_mode="none")
    result = fit(haze(16, 20, 6), BACKBONE, out=tmp_path, config=config)
    assert result.certificate.validation.drop <= 0
    if result.index.reason is not None:
        assert "budget 0.1 loses" in result.index.reason


def test_depth_width_and_tokens_are_chosen_together(tmp_path):
    width = WidthConfig("taylor", budget=0.5, with_depth=True, tokens=0.6)
    result = fit(SMALL, BACKBONE, out=tmp_path, config=replace(QUICK, width=width))
    tokens = Card.from_json((result.cut / "onetrunk.json").read_bytes()).prune_index.tokens
    assert tokens == result.index.tokens
    assert (tokens.blocks, sum(tokens.patches_kept)) == (result.index.depth, round(0.6 * 16 * result.index.depth))
    measured = accuracy_of(
        read_folder(result.cut, BACKBONE), SMALL.test, make_transform(BACKBONE.record.id.preprocessing)
    )
    assert measured == result.certificate.cut
    assert 2 <= result.index.depth <= 4
    scored = [score for score in result.index.scores if score is not None]
    assert result.index.scores[result.index.depth - 1] == max(scored)


def test_budgets_cost_one_search_and_write_no_task(tmp_path):
    full, points = fit_budgets(SMALL, BACKBONE, (0.4, 0.8), out=tmp_path, config=QUICK)
    assert full is not None
    assert [point.budget for point in points] == [0.4, 0.8]
    assert not (tmp_path / "cut").exists()
    assert not (tmp_path / "unfinished").exists()


def test_tokens_alone_are_pruned_at_a_budget_of_one_and_a_convolution_needs_them_all(tmp_path):
    width = WidthConfig("taylor", budget=1.0, tokens=0.5)
    result = fit(SMALL, BACKBONE, out=tmp_path, config=replace(QUICK, width=width, max_drop=100.0))
    assert result.index.width is None
    assert sum(result.index.tokens.patches_kept) == 32
    with pytest.raises(InvalidSettingError, match="convolves the whole grid of patches"):
        replace(QUICK, width=width, tune=replace(QUICK.tune, method="convpass"))


def test_units_are_kept_in_groups_that_no_search_has_to_know(tmp_path):
    grouped = replace(QUICK, width=replace(QUICK.width, unit_group=64))
    result = fit(SMALL, BACKBONE, out=tmp_path / "fit", config=grouped)
    groups = [mask.units >> 64 * group & (1 << 64) - 1 for mask in result.index.width.masks for group in range(3)]
    assert set(groups) == {0, (1 << 64) - 1}
    assert Card.from_json((result.cut / "onetrunk.json").read_bytes()).prune_index.width == result.index.width


def test_a_group_above_the_units_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InvalidSettingError, match="groups of 193 units: a block has 192"):
        fit(SMALL, BACKBONE, out=tmp_path, config=replace(QUICK, width=replace(QUICK.width, unit_group=193)))
    assert not any(tmp_path.iterdir())


def test_a_width_before_tuning_is_refused():
    with pytest.raises(InvalidSettingError, match="leave out when='before'"):
        replace(QUICK, when="before")


def test_a_fit_at_full_width_says_nothing_of_it(tmp_path):
    config = replace(QUICK, width=WidthConfig("magnitude", budget=1.0))
    result = fit(SMALL, BACKBONE, out=tmp_path, config=config)
    assert "width" not in json.loads((result.cut / "onetrunk.json").read_text())["prune_index"]
    assert result.certificate.cut == result.certificate.full
