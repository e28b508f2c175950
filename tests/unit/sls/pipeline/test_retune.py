from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.toy_datasets import colours, toy_backbone

from sls.adapters.model import Tuned, block_of
from sls.adapters.task_folder import read_folder, write_folder
from sls.evaluation import train_features
from sls.pipeline.retune import MODES, CutModel, TrainingContext, truncated, untrained
from sls.progress import Progress
from sls.scoring.features import block_features
from sls.scoring.ridge import ridge_head
from sls.training.recipe import TrainingConfig
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
TASK = colours(spread=120)
RECIPE = TrainingConfig(epochs=2, batch=8)
STEPS = 2 * 40 // 8
DEPTH = 2


def bench(seen: list[Progress] | None = None) -> TrainingContext:
    return TrainingContext(TASK, BACKBONE, TRANSFORM, ([] if seen is None else seen).append)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    """A task tuned at full depth, to be cut at block 2 of 4."""
    full = bench().tune(untrained(TASK, BACKBONE, RECIPE), RECIPE, stage="tune")
    folder = tmp_path_factory.mktemp("full")
    write_folder(folder, BACKBONE, full, TASK.classes)
    features = train_features(read_folder(folder, BACKBONE).vit, TASK, TRANSFORM, samples=30)
    return CutModel(full, DEPTH, RECIPE, features, bench())


def retuned(cut: CutModel, mode: str, folder: Path, seen: list[Progress] | None = None) -> Tuned:
    return MODES[mode](replace(cut, bench=bench(seen)), folder / "epochs")


def moved(one: Tuned, other: Tuned) -> float:
    """The largest difference between the tensors of both."""
    assert one.adapter.keys() == other.adapter.keys()
    pairs = [(value, other.adapter[key]) for key, value in one.adapter.items()]
    pairs += [(one.weight, other.weight), (one.bias, other.bias)]
    return max(float((mine - theirs).abs().max()) for mine, theirs in pairs)


def test_not_retuned_the_task_is_the_full_one_up_to_the_depth_bit_for_bit(cut, tmp_path):
    result = retuned(cut, "none", tmp_path)
    assert {block_of(key) for key in result.adapter} == {1, 2}
    assert all(torch.equal(value, cut.full.adapter[key]) for key, value in result.adapter.items())
    assert torch.equal(result.weight, cut.full.weight)
    assert torch.equal(result.bias, cut.full.bias)


def test_a_closed_form_head_leaves_the_adapter_alone_and_is_the_ridge_solution(cut, tmp_path):
    seen: list[Progress] = []
    result = retuned(cut, "head", tmp_path, seen)
    assert result.adapter.keys() == truncated(cut.full, DEPTH).adapter.keys()
    assert all(torch.equal(value, cut.full.adapter[key]) for key, value in result.adapter.items())
    write_folder(tmp_path, BACKBONE, result, TASK.classes)
    vit = read_folder(tmp_path, BACKBONE, depth=DEPTH).vit
    with torch.inference_mode():
        served = vit(TASK.train.inputs(range(len(TASK.train)), TRANSFORM)).numpy()
    expected = ridge_head(served, TASK.train.labels, len(TASK.classes))
    torch.testing.assert_close(result.weight, expected.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(result.bias, expected.bias, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(result.weight, cut.full.weight, atol=1e-3)
    assert not seen


def test_from_scratch_nothing_depends_on_the_full_model(cut, tmp_path):
    ruined = replace(
        cut.full,
        adapter={key: torch.full_like(value, torch.nan) for key, value in cut.full.adapter.items()},
        weight=torch.full_like(cut.full.weight, torch.nan),
    )
    result = retuned(replace(cut, full=ruined), "scratch", tmp_path / "one")
    assert {block_of(key) for key in result.adapter} == {1, 2}
    assert moved(result, retuned(cut, "scratch", tmp_path / "other")) == 0


def test_rewound_it_goes_on_from_the_cut_model_and_from_scratch_it_does_not(cut, tmp_path):
    rewound, fresh = list[Progress](), list[Progress]()
    result = retuned(cut, "rewind", tmp_path / "one", rewound)
    retuned(cut, "scratch", tmp_path / "other", fresh)
    assert rewound[0].loss < fresh[0].loss
    assert {p.stage for p in rewound} == {"retune"}
    assert moved(result, truncated(cut.full, DEPTH)) > 0


def test_at_a_constant_rate_no_tensor_moves_further_than_a_hundred_thousandth_a_step(cut, tmp_path):
    start, rewound = truncated(cut.full, DEPTH), retuned(cut, "rewind", tmp_path / "one")
    steady = retuned(cut, "constant", tmp_path / "other")
    furthest = STEPS * 1.01e-5  # AdamW moves by about the rate at each step
    assert furthest / 2 < (steady.weight - start.weight).abs().max() <= furthest
    assert (rewound.weight - start.weight).abs().max() > 10 * furthest
    for key, value in steady.adapter.items():
        assert 0 < (value - start.adapter[key]).abs().max() <= furthest


def test_heads_are_fitted_on_all_training_images_and_the_criterion_sees_no_more_than_its_samples(cut):
    assert cut.features.scored.scored.shape == (4, 30, 48)
    assert cut.features.served.shape == (4, 40, 48)
    assert len(cut.features.scored_labels) == 30


def test_what_is_scored_does_not_depend_on_how_many_images_follow():
    order = TASK.train.content_order()[:30]
    vit = BACKBONE.build()
    alone = block_features(vit, TASK.train, TRANSFORM, rows=order)
    among = train_features(vit, TASK, TRANSFORM, samples=30)
    assert (among.scored.scored == alone.scored).all()
    assert (among.scored_labels == TASK.train.labels[order]).all()
