"""Scores of heads and units, trials without training, and adapters cut to a width, on a small backbone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.custom_tasks import random_tuned
from support.narrow_twin import narrow_twin, random_width
from support.token_twin import random_tokens
from support.toy_datasets import colours, toy_backbone

from sls.adapters.methods import METHODS
from sls.adapters.model import linear
from sls.pipeline.width_fit import adapted
from sls.training.recipe import TrainingConfig
from sls.width.narrow_adapter import FROM_FRESH, narrowed_model
from sls.width.search import CRITERIA, WidthConfig, WidthSubject, search_width
from sls.width.trial import choose_both, pruned, width_curve
from store.errors import DataError, InvalidSettingError
from store.weights.preprocessing import make_transform

BACKBONE, DATA = toy_backbone(), colours(train=24)
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
BLOCKS, SIZES = 4, {"heads": 3, "units": 192}


def subject(method: str = "lora", dataset=DATA) -> WidthSubject:
    tuned = random_tuned(BACKBONE, method, depth=BLOCKS)
    recipe = TrainingConfig(epochs=1, batch=8)
    return WidthSubject(dataset, BACKBONE, lambda: adapted(tuned, BACKBONE), recipe, TRANSFORM, lambda _: None)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_head_and_unit_and_the_same_again(criterion):
    config = WidthConfig(criterion, epochs=1)
    first, second = search_width(subject(), config), search_width(subject(), config)
    assert (first.heads.shape, first.units.shape) == ((BLOCKS, 3), (BLOCKS, 192))
    assert np.isfinite(first.heads).all()
    assert np.isfinite(first.units).all()
    assert first.heads.std() > 0
    assert first.units.std() > 0
    assert (first.heads == second.heads).all()
    assert (first.units == second.units).all()
    assert first.joint == (criterion == "slimming")


@pytest.mark.parametrize(("criterion", "method"), [("vit-slim", "adapter+"), ("taylor", "lora")])
def test_patches_are_scored_beside_heads_and_units_where_they_are_asked_for(criterion, method):
    one = subject(method)
    found = search_width(one, WidthConfig(criterion, epochs=1, tokens=0.5))
    assert (found.tokens.scores.shape, found.tokens.rows, found.tokens.columns) == ((BLOCKS, 16), 4, 4)
    assert found.tokens.scores.std() > 0
    assert criterion == "taylor" or (found.tokens.scores < 0.999).all()  # tanh(3) at first, and less by the penalty
    alone = search_width(one, WidthConfig(criterion, epochs=1))
    assert alone.tokens is None
    assert criterion == "vit-slim" or (alone.heads == found.heads).all()
    for point in width_curve(one, found, (0.5, 1.0), 0.5):
        assert sum(point.tokens.patches_kept) == 32
        assert point.flops < point.budget


@pytest.mark.parametrize("method", ["convpass", "ssf", "repadapter", "vera"])
def test_masks_are_trained_whatever_stands_around_a_block_or_a_map(method):
    found = search_width(subject(method), WidthConfig("vit-slim", epochs=1))
    assert found.units.std() > 0


def test_a_task_without_images_of_one_class_is_scored_by_the_loss_alone_and_the_backbone_stays():
    before = {name: tensor.clone() for name, tensor in BACKBONE.tensors.items()}
    search_width(subject(), WidthConfig("vit-slim", epochs=1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in BACKBONE.tensors.items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", [name for name in METHODS if name not in FROM_FRESH | {"dora"}])
def test_an_adapter_cut_to_a_width_answers_as_the_whole_one_whose_heads_and_units_are_masked(method, seed):
    tuned = random_tuned(BACKBONE, method, depth=BLOCKS, seed=seed)
    width = random_width(seed, 3, **SIZES)
    one = replace(subject(), model=lambda: adapted(tuned, BACKBONE))
    masked = pruned(one, width)
    cut = adapted(narrowed_model(tuned, width), BACKBONE.narrow(width))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(cut.head(cut.vit(images)), masked.head(masked.vit(images)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["lora", "adapter+", "ssf", "repadapter"])
def test_patches_are_taken_out_of_the_tuned_model_as_of_the_one_that_is_tuned_again(method):
    tuned = random_tuned(BACKBONE, method, depth=BLOCKS)
    width, tokens = random_width(2, 3, **SIZES), random_tokens(2, 3, (4, 4))
    masked = pruned(replace(subject(), model=lambda: adapted(tuned, BACKBONE)), width, tokens)
    cut = adapted(narrowed_model(tuned, width), BACKBONE.narrow(width, tokens))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(cut.head(cut.vit(images)), masked.head(masked.vit(images)), atol=1e-4, rtol=1e-4)


def test_without_adapters_masks_answer_as_stock_timm_without_these_heads_and_units():
    width = random_width(5, BLOCKS, **SIZES)
    masked = pruned(replace(subject(), model=lambda: model_of(BACKBONE.build())), width)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(masked.vit(images), narrow_twin(BACKBONE, width).model(images), atol=1e-4, rtol=1e-4)


def model_of(vit):
    from sls.adapters.model import AdaptedModel

    return AdaptedModel(vit, linear(torch.zeros(3, 48), torch.zeros(3)))


def test_one_search_serves_every_budget_and_the_whole_model_is_the_last_point():
    one = subject()
    importance = search_width(one, WidthConfig("magnitude"))
    points = width_curve(one, importance, (0.3, 0.6, 1.0))
    assert [point.budget for point in points] == [0.3, 0.6, 1.0]
    assert points[0].flops < points[1].flops < points[2].flops == 1.0
    assert points[2].accuracy.total == len(DATA.validation)


def test_depth_and_width_together_take_the_same_operations_whatever_the_depth():
    one = subject()
    importance = search_width(one, WidthConfig("magnitude"))
    pairs = choose_both(one, importance, 0.5)
    assert {pair.width.blocks for pair in pairs} == {2, 3, 4}
    for pair in pairs:
        assert sum(pair.width.units_kept) == pytest.approx(0.5 * 4 * 192, abs=2)
    assert pairs[0].accuracy.value == max(pair.accuracy.value for pair in pairs)
    with pytest.raises(DataError, match="need validation images"):
        choose_both(subject(dataset=colours(validation=0)), importance, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": "hessian"},
        {"budget": 0.0},
        {"budget": 1.5},
        {"epochs": 0},
        {"l1_units": -1.0},
        {"tokens": 0.0},
        {"tokens": 1.5},
        {"tokens": 0.5, "criterion": "slimming"},
        {"l1_tokens": -1.0},
        {"unit_group": 0},
    ],
)
def test_settings_that_no_search_can_use_are_refused(changes):
    with pytest.raises(InvalidSettingError):
        WidthConfig(**changes)


def test_groups_above_the_units_are_refused_before_a_mask_is_trained():
    trained = []
    one = replace(subject(), progress=trained.append)
    with pytest.raises(InvalidSettingError, match="groups of 193 units: a block has 192"):
        search_width(one, WidthConfig("vit-slim", unit_group=193))
    assert not trained
