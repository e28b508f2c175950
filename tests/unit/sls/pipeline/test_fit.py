from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.toy_datasets import colours, toy_backbone

from sls.adapters.model import block_of
from sls.adapters.task_folder import backbone_of, read_folder
from sls.choose_depth import ScoreConfig, choose_depth
from sls.data.dataset import Dataset, Split
from sls.pipeline.config import FitConfig
from sls.pipeline.fit import FitResult, fit
from sls.pipeline.stages import Stages
from sls.progress import Progress, ProgressCallback
from sls.training.recipe import TrainingConfig
from store.adapters.checkpoint import CARD, CONFIG, HEAD, LABELS, WEIGHTS
from store.errors import BackboneMismatchError, FormatError, InvalidSettingError
from store.records.evidence import PruneIndex
from store.records.manifest import Card
from store.weights.preprocessing import make_transform

BACKBONE = toy_backbone()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
FIT_CONFIG = FitConfig(
    tune=TrainingConfig(epochs=3, batch=8),
    retune=TrainingConfig(epochs=2, batch=8),
    score=ScoreConfig(criterion="silhouette", alpha=0.98),
)
FILES = {CONFIG, WEIGHTS, HEAD, LABELS, CARD}


def quiet(_: Progress) -> None: ...


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return fit(colours(), BACKBONE, out=tmp_path_factory.mktemp("fit"), config=FIT_CONFIG, progress=quiet)


def logits_of_stock_peft(folder: Path, depth: int, split: Split) -> torch.Tensor:
    """The slow twin: timm, PEFT's own loader, the head by hand, then the upper blocks cut off."""
    model = PeftModel.from_pretrained(BACKBONE.build(), str(folder)).eval()
    model.base_model.model.blocks = model.base_model.model.blocks[:depth]
    head = {name: value.float() for name, value in load_file(folder / HEAD).items()}
    with torch.inference_mode():
        return model(split.inputs(range(len(split)), TRANSFORM)) @ head["weight"].T + head["bias"]


def shuffled(split: Split) -> Split:
    order = np.random.default_rng(1).permutation(len(split))
    return Split(tuple(split.images[i] for i in order), split.labels[order])


def test_a_task_that_is_easy_is_cut_and_stays_accurate(fitted):
    assert fitted.index.depth < BACKBONE.record.blocks
    assert fitted.certificate.full.value > 0.9
    assert fitted.certificate.cut.value > 0.9
    assert fitted.index.samples == 40


def test_both_folders_are_whole_and_say_what_they_are(fitted):
    for folder, depth in ((fitted.full, 4), (fitted.cut, fitted.index.depth)):
        assert {path.name for path in folder.iterdir()} == FILES
        card = Card.from_json((folder / CARD).read_bytes())
        assert (card.backbone, card.prune_index.depth) == (BACKBONE.record.id.fingerprint, depth)
        assert card.lineage.data_digest == colours().digest
        assert (folder / LABELS).read_text() == "red\ngreen\nblue\n"


def test_the_cut_folder_holds_nothing_above_the_depth(fitted):
    blocks = {block_of(key) for key in load_file(fitted.cut / WEIGHTS)}
    assert blocks == set(range(1, fitted.index.depth + 1))


@pytest.mark.parametrize("kind", ["full", "cut"])
def test_the_certificate_is_what_stock_peft_measures_on_the_test_part(fitted, kind):
    dataset, depth = colours(), {"full": 4, "cut": fitted.index.depth}[kind]
    predicted = logits_of_stock_peft(getattr(fitted, kind), depth, dataset.test).argmax(dim=1).numpy()
    assert getattr(fitted.certificate, kind).correct == (predicted == dataset.test.labels).sum()


def test_accuracy_before_retuning_is_the_full_model_cut_short(fitted):
    dataset, depth = colours(), fitted.index.depth
    predicted = logits_of_stock_peft(fitted.full, depth, dataset.test).argmax(dim=1).numpy()
    assert fitted.certificate.cut_before_retune.correct == (predicted == dataset.test.labels).sum()
    assert fitted.certificate.cut_before_retune == fitted.accuracies[depth - 1]


def test_the_test_part_decides_nothing(fitted, tmp_path):
    dataset = colours()
    other = replace(dataset, test=Split(dataset.test.images, (dataset.test.labels + 1) % 3))
    result = fit(other, BACKBONE, out=tmp_path, config=FIT_CONFIG, progress=quiet)
    assert result.index == fitted.index
    assert (result.cut / WEIGHTS).read_bytes() == (fitted.cut / WEIGHTS).read_bytes()


def test_the_same_images_give_the_same_bytes(fitted, tmp_path):
    assert_equal(fit(colours(), BACKBONE, out=tmp_path, config=FIT_CONFIG, progress=quiet), fitted)


def test_a_folder_can_be_fitted_into_again(tmp_path):
    def again(alpha: float) -> FitResult:
        score = ScoreConfig(criterion="silhouette", alpha=alpha)
        quick = FitConfig(tune=TrainingConfig(epochs=1), retune=TrainingConfig(epochs=1), score=score)
        return fit(colours(), BACKBONE, out=tmp_path, config=quick, progress=quiet)

    first, second = again(0.0), again(1.0)
    assert (first.cut, first.certificate.full) == (second.cut, second.certificate.full)
    assert first.index.depth < second.index.depth
    assert Card.from_json((second.cut / CARD).read_bytes()).prune_index == second.index


def test_the_order_of_the_rows_does_not_change_the_scores(fitted):
    dataset = colours()
    index = score_again(fitted.full, replace(dataset, train=shuffled(dataset.train)))
    assert index == score_again(fitted.full, dataset)
    assert index.scores == fitted.index.scores


def score_again(folder: Path, dataset: Dataset, **changes: object):
    return choose_depth(folder, dataset, BACKBONE, config=replace(FIT_CONFIG.score, **changes)).index


def test_scoring_a_folder_changes_nothing_in_it(fitted):
    before = {path.name: path.read_bytes() for path in fitted.cut.iterdir()}
    index = score_again(fitted.cut, colours())
    assert index.blocks == fitted.index.depth
    assert {path.name: path.read_bytes() for path in fitted.cut.iterdir()} == before


def test_each_scored_block_is_reported_with_its_score(fitted):
    scored = [p for p in fitted.curve if p.stage == "score"]
    assert [p.score for p in scored] == [s for s in fitted.index.scores[::-1] if s is not None]
    assert set(fitted.seconds) == {"tune", "score", "retune", "measure"}


def test_too_few_images_prune_nothing_and_are_not_tuned_again(tmp_path):
    result = fit(
        colours(train=12), BACKBONE, out=tmp_path, config=replace(FIT_CONFIG, score=ScoreConfig()), progress=quiet
    )
    assert result.index.depth == 4
    assert "12 samples" in result.index.reason
    assert not [p for p in result.curve if p.stage == "retune"]
    assert (result.cut / WEIGHTS).read_bytes() == (result.full / WEIGHTS).read_bytes()
    assert result.certificate.cut == result.certificate.full


def test_no_more_samples_are_scored_than_asked_for(fitted):
    assert score_again(fitted.full, colours(), samples=35).samples == 35


@pytest.mark.parametrize("wrong", [{"criterion": "guess"}, {"samples": 0}, {"alpha": 2.0}])
def test_a_setting_that_no_run_can_use_is_refused(wrong):
    with pytest.raises(InvalidSettingError):
        ScoreConfig(**wrong)


# ------------------------------------------------------------------------------------------------------- interruption


def interrupting(stage: str, step: int, seen: list[Progress]) -> ProgressCallback:
    """Report into the list, and raise when the stage has come to this step."""

    def report(progress: Progress) -> None:
        seen.append(progress)
        if (progress.stage, progress.step) == (stage, step):
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize(("stage", "step"), [("tune", 2), ("retune", 1)])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bytes(fitted, tmp_path, stage, step):
    first, second = list[Progress](), list[Progress]()
    with pytest.raises(KeyboardInterrupt):
        fit(colours(), BACKBONE, out=tmp_path, config=FIT_CONFIG, progress=interrupting(stage, step, first))
    result = fit(colours(), BACKBONE, out=tmp_path, config=FIT_CONFIG, progress=second.append)
    trained = [(p.stage, p.step) for p in (*first, *second) if p.stage != "score"]
    assert trained == [(p.stage, p.step) for p in fitted.curve if p.stage != "score"]
    assert bool([p for p in second if p.stage == "score"]) == (stage == "tune")
    assert_equal(result, fitted)


def test_a_fit_of_something_else_does_not_go_on_from_what_was_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(colours(), BACKBONE, out=tmp_path, config=FIT_CONFIG, progress=interrupting("tune", 2, []))
    seen: list[Progress] = []
    other = replace(FIT_CONFIG, tune=TrainingConfig(epochs=1, seed=1))
    fit(colours(), BACKBONE, out=tmp_path, config=other, progress=seen.append)
    assert (seen[0].stage, seen[0].step, seen[0].steps) == ("tune", 1, 1)


def test_scores_are_read_back_and_torn_ones_are_made_again(tmp_path):
    index, other = PruneIndex(2, 4, "ridge", scores=(None, 0.1, 0.3, 1.0)), PruneIndex(3, 4, "ridge")
    stages = Stages(tmp_path, {"of": "this"})
    assert stages.index(lambda: index) == Stages(tmp_path, {"of": "this"}).index(lambda: other) == index
    (stages.folder / "index.json").write_text("{")
    assert stages.index(lambda: other) == other
    assert Stages(tmp_path, {"of": "that"}).index(lambda: index) == index


def assert_equal(result: FitResult, expected: FitResult) -> None:
    """Both folders hold the same bytes, and nothing is left of what was under way."""
    for kind in ("full", "cut"):
        one, other = getattr(result, kind), getattr(expected, kind)
        assert {path.name for path in one.iterdir()} == FILES
        assert all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)
    assert {path.name for path in result.cut.parent.iterdir()} == {"full", "cut"}


def test_a_folder_names_its_backbone_and_refuses_another(fitted, tmp_path):
    assert backbone_of(fitted.cut) == BACKBONE.record.id.fingerprint
    other = replace(BACKBONE.record, id=replace(BACKBONE.record.id, fingerprint="0" * 64))
    with pytest.raises(BackboneMismatchError, match="000000000000: give that one as `backbone=`"):
        read_folder(fitted.cut, replace(BACKBONE, record=other))
    with pytest.raises(FormatError, match="name it with `backbone=`"):
        backbone_of(tmp_path)


@pytest.mark.parametrize("absent", [CONFIG, WEIGHTS, HEAD])
def test_a_folder_that_is_not_whole_is_refused(fitted, tmp_path, absent):
    for name in FILES - {absent}:
        (tmp_path / name).write_bytes((fitted.cut / name).read_bytes())
    with pytest.raises(FormatError, match=f"has no {absent}"):
        read_folder(tmp_path, BACKBONE)
