"""A small random Swin from tuning to answers: fitted, cut inside and between stages, published, served, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from support.oracle import TaskFolder
from support.swin_tasks import make_swin, stock_logits

from onetrunk.workflows import publish_folder
from serving.runtime.predictor import Predictor
from sls.choose_depth import ScoreConfig, choose_depth
from sls.data.loading import load_dataset
from sls.pipeline.config import FitConfig
from sls.pipeline.fit import FitResult, fit
from sls.training.recipe import TrainingConfig
from store.accounting.report import storage_report
from store.errors import InvalidSettingError, UnservedBackboneError
from store.registry.store import Store
from store.weights.backbones import Backbone, encode
from store.weights.converted.leaving import export_merged
from store.weights.converted.transformers_export import export_transformers
from store.weights.preprocessing import make_transform

LIMIT = 40
SCORE = ScoreConfig(criterion="ncm", samples=LIMIT, tolerance=0.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Backbone:
    return make_swin(tmp_path_factory.mktemp("swin"), drop_path_rate=0.0)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("onetrunk/slant", limit=LIMIT)


def fitted(backbone, dataset, out: Path, **options: object) -> FitResult:
    method = str(options.pop("method", "lora"))
    tune = TrainingConfig(epochs=1, rank=2, batch=20, method=method)
    retune = TrainingConfig(epochs=1, batch=20)
    return fit(dataset, backbone, out=out, config=FitConfig(tune=tune, retune=retune, score=SCORE, **options))


@pytest.fixture(scope="module")
def runs(backbone, dataset, tmp_path_factory) -> dict[str, FitResult]:
    """The three orders of tuning and cutting, with one method of PEFT and two that PEFT lacks."""
    root = tmp_path_factory.mktemp("fits")
    return {
        "after": fitted(backbone, dataset, root / "after"),
        "early": fitted(backbone, dataset, root / "early", when="early", method="convpass"),
        "before": fitted(backbone, dataset, root / "before", when="before", method="ssf", save_dtype="float32"),
    }


def test_a_fit_cuts_stages_gives_the_head_their_width_and_certifies_the_result(backbone, runs):
    for result in runs.values():
        depth = result.index.depth
        assert result.index.blocks == 6
        assert len(result.certificate.curve) == 6
        assert load_file(result.cut / "head.safetensors")["weight"].shape[1] == backbone.record.width_at(depth)
    assert {result.index.depth for result in runs.values()} != {6}
    full = runs["after"]
    assert [accuracy is None for accuracy in full.accuracies] == [True] * 5 + [False]
    assert full.certificate.full == full.accuracies[5]


def test_the_depth_of_a_tuned_folder_is_chosen_again_from_stages_of_unequal_width(backbone, dataset, runs):
    choice = choose_depth(runs["after"].full, dataset, backbone, config=ScoreConfig(criterion="cka", samples=LIMIT))
    assert [block.shape[1] for block in choice.features.served] == [16, 16, 32, 32, 32, 64]
    assert [block.shape[1] for block in choice.features.scored] == [32, 32, 64, 64, 64, 64]
    assert 1 <= choice.index.depth <= 6


def test_published_tasks_are_served_as_stock_timm_and_peft_answer_and_leave_as_timm_models(
    backbone, dataset, runs, tmp_path
):
    pixels = dataset.test.image(0)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    batch = make_transform(backbone.record.id.preprocessing)(image)[None]
    with Store.open(tmp_path / "store", create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for name, result in runs.items():
            publish_folder(store, name, result.cut)
        publish_folder(store, "whole", runs["after"].full)
        with Predictor(store, dtype="float32") as predictor:
            answers = {
                name: future.result()
                for name, future in zip((*runs, "whole"), predictor.submit_many([*runs, "whole"], image), strict=True)
            }
        assert {name: answer.depth for name, answer in answers.items()} == {
            **{name: result.index.depth for name, result in runs.items()},
            "whole": 6,
        }
        made = TaskFolder(runs["after"].cut, runs["after"].index.depth)
        (expected,) = stock_logits(backbone, made, batch)
        torch.testing.assert_close(torch.tensor(answers["after"].logits), expected, atol=1e-4, rtol=0)
        for name in ("after", "before", "whole"):
            model = timm.create_model(
                f"local-dir:{export_merged(store, name, tmp_path / name)}", pretrained=True
            ).eval()
            with torch.inference_mode():
                torch.testing.assert_close(torch.tensor(answers[name].logits), model(batch)[0], atol=1e-4, rtol=0)
        with pytest.raises(UnservedBackboneError, match="is a Swin, which is exported for timm alone"):
            export_transformers(store, "after", tmp_path / "transformers")
        report = storage_report(store)
        assert report.run_flops < report.all_flops
        assert all(task.saved_by_cut_flops > 0 for task in report.tasks if task.depth < 6)


def test_what_a_swin_does_not_have_is_refused_before_anything_is_trained(backbone, dataset, tmp_path):
    from sls.width.search import WidthConfig

    with pytest.raises(InvalidSettingError, match="retune_mode 'none' keeps the head"):
        fitted(backbone, dataset, tmp_path, retune_mode="none")
    with pytest.raises(UnservedBackboneError, match="which no width index says: cut its depth"):
        fitted(backbone, dataset, tmp_path, width=WidthConfig())
    assert not any(tmp_path.iterdir())
