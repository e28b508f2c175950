"""A backbone whose heads and units stand in the order of their importance answers as before."""

from __future__ import annotations

import random

import pytest
import torch
from support.narrow_twin import random_width
from support.oracle import make_backbone

from serving.engine.engine import Engine
from sls.width.order import order_by_importance
from store.errors import InvalidSettingError
from store.registry.store import Store
from store.weights.backbones import encode, open_backbone
from store.weights.forms import Forms, TaskWeights
from store.weights.ordering import is_ordered, order_backbone
from store.weights.width import kept_of

BLOCKS, HEADS, UNITS = 4, 3, 192


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def orders(seed: int, total: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [draw.sample(range(total), total) for _ in range(BLOCKS)]


@pytest.mark.parametrize("seed", range(3))
def test_no_logit_moves_by_more_than_rounding(backbone, seed):
    moved = order_backbone(backbone, orders(seed, HEADS), orders(-seed - 1, UNITS), label="random/ordered")
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        before, after = backbone.build()(images), moved.build()(images)
    assert (before - after).abs().max() < 1e-5
    assert moved.record.id.fingerprint != backbone.record.id.fingerprint
    assert is_ordered(moved)
    assert not is_ordered(backbone)


def test_by_its_weights_the_largest_heads_and_units_come_first(backbone):
    ordered = order_by_importance(backbone, {}, label="random/ordered")
    for block in ordered.build().blocks:
        norms = block.mlp.fc1.weight.square().sum(1) + block.mlp.fc2.weight.square().sum(0)
        assert (norms.diff() <= 1e-6).all()


def test_a_store_keeps_it_under_its_own_fingerprint(backbone, tmp_path):
    ordered = order_by_importance(backbone, {}, label="random/ordered")
    with Store.open(tmp_path, create=True) as store:
        store.add_backbone(ordered.record, encode(ordered))
        again = open_backbone(store, store.backbone("random/ordered"))
        assert again.record.id.fingerprint == ordered.record.id.fingerprint
        assert is_ordered(again)


def test_tasks_that_keep_the_first_heads_and_units_copy_no_weight(backbone):
    engine = Engine(backbone)
    widths = [random_width(seed, BLOCKS, heads=HEADS, units=UNITS, prefix=True) for seed in range(16)]
    head = torch.randn(3, 48), torch.zeros(3)
    tasks = [TaskWeights(BLOCKS, Forms(kept=kept_of(width)), *head, ("a", "b", "c")) for width in widths]
    engine.forward(torch.randn(16, 3, 32, 32), tasks)
    assert engine._model.narrow.nbytes == 0
    assert engine._model.narrow.gathers > 0
    assert max(width.nbytes for width in widths) == 3 * BLOCKS


def test_what_is_no_permutation_is_refused(backbone):
    with pytest.raises(InvalidSettingError, match="orders of heads are not 4 permutations of 3"):
        order_backbone(backbone, [[0, 1, 1]] * 4, orders(0, UNITS), label="x")
    with pytest.raises(InvalidSettingError, match="orders of units are not 4 permutations of 192"):
        order_backbone(backbone, orders(0, HEADS), orders(0, UNITS)[:3], label="x")
