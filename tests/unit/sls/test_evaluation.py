"""What the certificate says is what stock timm and PEFT measure on the folders, and the bound that it names is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from safetensors.torch import load_file
from support.stock_peft import BACKBONE, TRANSFORM, answers, measured, run, served
from support.toy_datasets import haze

from sls.adapters.model import block_of
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.data.dataset import Dataset, Split
from sls.evaluation import keep_adapted, raised_cut
from sls.pipeline.config import FitConfig
from sls.pipeline.fit import FitResult
from sls.scoring.features import block_features
from sls.scoring.ridge import ridge_head
from sls.training.recipe import TrainingConfig
from store.adapters.checkpoint import CARD, WEIGHTS
from store.errors import InvalidSettingError
from store.records.evidence import Accuracy, PruneIndex
from store.records.manifest import Card

LOWEST = ScoreConfig(criterion="cka", alpha=0)  # every score is above 0, so the walk never ends: depth 1
CONFIG = FitConfig(
    tune=TrainingConfig(epochs=3), retune=TrainingConfig(epochs=1), score=LOWEST, retune_mode="none", max_drop=100
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The haze, its validation images labelled as the full model answers: each depth that differs loses by it."""
    plain = haze()
    full = run(CONFIG, tmp_path_factory.mktemp("first"), plain).full
    return replace(plain, validation=Split(plain.validation.images, answers(full, 4, plain.validation)))


@pytest.fixture(scope="module")
def cut(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(CONFIG, tmp_path_factory.mktemp("fit"), dataset)


def test_validation_accuracies_are_those_of_the_two_folders(cut, dataset):
    validation = cut.certificate.validation
    assert validation.full == measured(cut.full, 4, dataset.validation) == Accuracy(60, 60)
    assert validation.cut == measured(cut.cut, 1, dataset.validation)
    assert validation.drop > 20


def test_test_accuracies_are_those_of_the_two_folders(cut, dataset):
    assert cut.accuracies == tuple(measured(cut.full, depth, dataset.test) for depth in (1, 2, 3, 4))
    assert (cut.certificate.full, cut.certificate.cut_before_retune) == (cut.accuracies[3], cut.accuracies[0])
    assert cut.certificate.cut == measured(cut.cut, 1, dataset.test)


def test_the_curve_is_a_closed_form_head_at_every_depth_of_the_full_model(cut, dataset):
    expected = []
    for depth in (1, 2, 3, 4):
        head = ridge_head(served(cut.full, depth, dataset.train).numpy(), dataset.train.labels, 3)
        predicted = (served(cut.full, depth, dataset.validation) @ head.weight.T + head.bias).argmax(dim=1).numpy()
        expected.append(Accuracy(int((predicted == dataset.validation.labels).sum()), len(dataset.validation)))
    assert cut.certificate.curve == tuple(expected)
    assert len(set(expected)) > 1


def test_the_card_of_the_cut_holds_the_whole_certificate(cut):
    card = Card.from_json((cut.cut / CARD).read_bytes())
    assert card.certificate == cut.certificate
    assert card.prune_index == cut.index
    assert card.lineage.recipe["retune_mode"] == "none"


def test_within_the_bound_the_cut_stays_where_the_criterion_put_it(cut):
    assert cut.index.depth == 1
    assert cut.index.reason is None
    assert cut.certificate.max_drop == 100


def test_the_cut_is_raised_to_the_first_depth_that_keeps_the_bound(cut, dataset, tmp_path):
    right = [measured(cut.full, depth, dataset.validation).correct for depth in (1, 2, 3, 4)]
    assert right[0] < right[1] < right[2] < right[3] == 60
    first, lost = 100 * (60 - right[0]) / 60, 100 * (60 - right[2]) / 60
    result = run(replace(CONFIG, max_drop=lost), tmp_path, dataset)
    assert (result.index.depth, result.certificate.validation.cut.correct) == (3, right[2])
    assert f"depth 1, as scored, loses {first:.3g} points" in result.index.reason
    assert result.index.scores == cut.index.scores
    assert {block_of(key) for key in load_file(result.cut / WEIGHTS)} == {1, 2, 3}


def test_where_no_depth_keeps_the_bound_nothing_is_cut_and_the_reason_is_kept(cut, dataset, tmp_path):
    result = run(replace(CONFIG, max_drop=1), tmp_path, dataset)
    assert (result.index.depth, result.certificate.validation.drop) == (4, 0)
    assert result.index.reason.endswith("allowed are 1: nothing is pruned")
    assert (result.cut / WEIGHTS).read_bytes() == (result.full / WEIGHTS).read_bytes()
    assert result.certificate.cut == result.certificate.full == cut.certificate.full


def test_each_depth_is_retuned_before_it_is_judged(dataset, tmp_path):
    result = run(replace(CONFIG, max_drop=14, retune_mode="head"), tmp_path, dataset)
    right, depth = [head.correct for head in result.certificate.curve], result.index.depth
    assert 1 < depth < 4
    assert result.certificate.validation.cut.correct == right[depth - 1] >= 60 * 0.86
    assert max(right[: depth - 1]) < 60 * 0.86


def test_a_bound_without_validation_images_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InvalidSettingError, match="max_drop 1 needs validation images, and haze has none"):
        run(replace(CONFIG, max_drop=1), tmp_path / "out", haze(validation=0))
    assert not (tmp_path / "out").exists()


def test_without_validation_images_there_is_no_curve_and_all_else_is_as_ever(tmp_path):
    result = run(replace(CONFIG, max_drop=None, tune=TrainingConfig(epochs=1)), tmp_path, haze(validation=0))
    certificate = result.certificate
    assert (certificate.validation, certificate.curve, certificate.calibration) == (None, (), None)
    assert certificate.cut_before_retune is not None


# ------------------------------------------------------------------------------------------------------ before tuning


EARLY = replace(CONFIG, when="before", max_drop=None, score=ScoreConfig(criterion="cka", alpha=0.9))


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(EARLY, tmp_path_factory.mktemp("early"), haze())


def test_before_tuning_the_depth_is_that_of_the_frozen_backbones_features(early):
    features = block_features(BACKBONE.build(), haze().train, TRANSFORM)
    assert early.index == depth_from_features(features, haze().train.labels, EARLY.score)
    assert 1 <= early.index.depth < 4


def test_before_tuning_only_the_kept_blocks_are_trained_and_only_once(early):
    assert [(p.stage, p.step) for p in early.curve if p.stage != "score"] == [("tune", step) for step in range(1, 4)]
    assert {block_of(key) for key in load_file(early.cut / WEIGHTS)} == set(range(1, early.index.depth + 1))
    assert early.certificate.cut == measured(early.cut, early.index.depth, haze().test)


def test_where_no_full_model_was_tuned_the_cut_alone_is_certified(early):
    assert early.certificate.full is None
    assert (early.certificate.cut_before_retune, early.certificate.validation) == (None, None)
    assert (early.full, early.accuracies) == (None, ())
    assert not (early.cut.parent / "full").exists()
    card = Card.from_json((early.cut / CARD).read_bytes())
    assert (card.certificate, card.prune_index) == (early.certificate, early.index)


def test_a_bound_on_the_loss_has_a_full_model_tuned_to_compare_with(early, tmp_path):
    result, images = run(replace(EARLY, max_drop=100), tmp_path, haze()), haze().validation
    assert {p.stage for p in result.curve} == {"score", "reference", "tune"}
    assert result.index == early.index
    assert (result.cut / WEIGHTS).read_bytes() == (early.cut / WEIGHTS).read_bytes()
    assert result.certificate.validation.full == measured(result.full, 4, images)
    assert result.certificate.validation.cut == measured(result.cut, result.index.depth, images)
    assert result.certificate.cut_before_retune is None


def test_before_tuning_full_depth_is_a_full_model_and_is_certified(tmp_path):
    result = run(replace(EARLY, tune=TrainingConfig(epochs=1, from_block=4)), tmp_path, haze())
    assert "cut there instead" in result.index.reason
    assert {block_of(key) for key in load_file(result.cut / WEIGHTS)} == {4}
    assert result.certificate.full == result.certificate.cut == measured(result.cut, 4, haze().test)


# ------------------------------------------------------------------------------------------------------ the small parts


def test_the_cut_is_never_below_where_the_adapters_begin():
    index = PruneIndex(depth=2, blocks=12, criterion="ridge")
    assert keep_adapted(index, 2) == index
    kept = keep_adapted(replace(index, candidates=(2, 3)), 5)
    assert (kept.depth, kept.candidates) == (5, ())
    assert "depth 2 is below block 5" in kept.reason


def test_a_cut_that_was_raised_says_from_where_and_why():
    index = PruneIndex(depth=2, blocks=12, criterion="ridge", candidates=(2, 3))
    assert raised_cut(index, 5, 3.25, 1).reason == (
        "depth 2, as scored, loses 3.25 points of validation accuracy, allowed are 1: raised to depth 5"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"when": "later"}, "when 'later' is unknown: choose one of after, before"),
        ({"retune_mode": "again"}, "retune_mode 'again' is unknown: choose one of constant, rewind"),
        ({"max_drop": -1}, "max_drop -1: give points of accuracy, 0..100"),
        ({"max_drop": float("nan")}, "max_drop nan: give points of accuracy, 0..100"),
    ],
)
def test_settings_that_no_fit_can_use_are_refused(wrong, message):
    with pytest.raises(InvalidSettingError, match=message):
        FitConfig(**wrong)
