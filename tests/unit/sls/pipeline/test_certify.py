"""An early cut, and what a certificate says beside accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.stock_peft import BACKBONE, TRANSFORM, measured, run
from support.toy_datasets import InterruptionError, haze

from sls.adapters.methods import build_adapted
from sls.adapters.model import block_of
from sls.adapters.task_folder import DTYPES, read_folder
from sls.choose_depth import ScoreConfig, depth_from_features
from sls.evaluation import certified_counts, logits_of
from sls.pipeline.config import FitConfig
from sls.pipeline.fit import FitResult, fit
from sls.pipeline.retune import untrained
from sls.progress import Progress, ignore_progress
from sls.scoring.calibration import calibration_error, fit_temperature
from sls.scoring.features import block_features
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.adapters.checkpoint import HEAD, WEIGHTS
from store.records.evidence import Rounding
from store.records.measures import MOST_CONFUSED, MOST_COUNTED

BEFORE = FitConfig(
    tune=TrainingConfig(epochs=3),
    retune=TrainingConfig(epochs=1),
    score=ScoreConfig(criterion="cka", alpha=0.9),
    when="before",
)
BEGIN = replace(BEFORE, when="early")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return run(BEGIN, tmp_path_factory.mktemp("begun"), haze())


def test_an_early_cut_is_chosen_after_one_epoch_and_all_others_run_at_that_depth(begun):
    stages = [(p.stage, p.step, p.steps) for p in begun.curve if p.stage != "score"]
    assert stages == [("begin", 1, 1), *(("tune", step, 3) for step in range(1, 4))]
    assert 1 <= begun.index.depth < 4
    assert {block_of(key) for key in load_file(begun.cut / WEIGHTS)} == set(range(1, begun.index.depth + 1))
    assert begun.certificate.cut == measured(begun.cut, begun.index.depth, haze().test)
    assert (begun.full, begun.certificate.full) == (None, None)


def test_an_early_cut_is_that_of_the_features_of_the_model_after_one_epoch(begun):
    config = TrainingConfig(epochs=1)
    start = untrained(haze(), BACKBONE, config)
    first = tune(haze(), BACKBONE, start, config, transform=TRANSFORM, stage="", progress=ignore_progress)
    features = block_features(build_adapted(BACKBONE, first).vit, haze().train, TRANSFORM)
    assert begun.index == depth_from_features(features, haze().train.labels, BEGIN.score)


@pytest.mark.parametrize("last", [("begin", 1), ("tune", 2)])
def test_an_early_cut_that_was_interrupted_goes_on_to_the_same_bytes(begun, tmp_path, last):
    def stop(progress: Progress) -> None:
        if (progress.stage, progress.step) == last:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        fit(haze(), BACKBONE, out=tmp_path, config=BEGIN, progress=stop)
    result = run(BEGIN, tmp_path, haze())
    assert "begin" not in [progress.stage for progress in result.curve]
    for path in begun.cut.iterdir():
        assert (result.cut / path.name).read_bytes() == path.read_bytes()


# -------------------------------------------------------------------------------------------------- what is certified


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_16_bits_cost_is_measured_with_the_numbers_as_they_were_trained(tmp_path, dtype):
    config = replace(BEFORE, save_dtype=dtype)
    result = run(config, tmp_path / dtype, haze())
    exact = run(replace(BEFORE, save_dtype="float32"), tmp_path / "exact", haze())
    assert result.certificate.rounding == Rounding(dtype, exact.certificate.cut)
    assert exact.certificate.rounding is None
    for file in (WEIGHTS, HEAD):
        rounded = load_file(result.cut / file)
        for key, value in load_file(exact.cut / file).items():
            assert torch.equal(value.to(DTYPES[dtype]), rounded[key])
    assert result.certificate.cut == measured(result.cut, result.index.depth, haze().test)


def test_the_certificate_has_what_the_test_images_were_answered(begun):
    labels, answers = haze().test.labels, begun.logits.argmax(axis=1)
    counts = begun.certificate.class_counts
    pairs = list(zip(labels.tolist(), answers.tolist(), strict=True))
    assert counts.confusion == tuple(tuple(pairs.count((row, column)) for column in range(3)) for row in range(3))
    assert sum(counts.correct) == begun.certificate.cut.correct
    logits = torch.from_numpy(begun.logits)
    model = read_folder(begun.cut, BACKBONE, depth=begun.index.depth)
    with torch.inference_mode():
        twin = model.head(model.vit(haze().test.inputs(range(30), TRANSFORM)))
    torch.testing.assert_close(logits, twin, atol=1e-4, rtol=0)


def test_the_temperature_is_of_the_validation_images_and_the_error_of_the_test_images(begun):
    calibration, test = begun.certificate.calibration, haze().test.labels
    assert calibration.fitted_on == len(haze().validation)
    assert calibration.ece == calibration_error(begun.logits, test)
    assert calibration.ece_scaled == calibration_error(begun.logits, test, calibration.temperature)
    model = read_folder(begun.cut, BACKBONE, depth=begun.index.depth)
    held_out = logits_of(model, haze().validation, TRANSFORM)
    assert calibration.temperature == fit_temperature(held_out, haze().validation.labels)


def test_with_many_classes_a_certificate_has_counts_and_with_very_many_none():
    few, many = (np.diag(np.arange(classes)) for classes in (MOST_CONFUSED + 1, MOST_COUNTED + 1))
    assert certified_counts(few).confusion == ()
    assert certified_counts(few).correct == tuple(range(MOST_CONFUSED + 1))
    assert certified_counts(many) is None
