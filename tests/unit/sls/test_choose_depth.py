from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.toy_backbone import toy_model

from sls.choose_depth import ScoreConfig, depth_from_features, look
from sls.data.dataset import Dataset, Split
from sls.progress import Progress
from sls.scoring.criteria import CRITERIA
from sls.scoring.features import BlockFeatures, block_features
from store.errors import DataError, InvalidSettingError
from store.records.backbone import Preprocessing
from store.weights.preprocessing import make_transform

TRANSFORM = make_transform(Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "center"))
EXACT = ("ncm", "ridge", "knn", "silhouette", "cka")


def emerging(samples: int = 60, blocks: int = 5) -> tuple[BlockFeatures, np.ndarray]:
    """Three classes that come apart from block to block: in one view from below, in the other only at the top."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    noise = random.normal(size=(2, blocks, samples, 8))
    early, late = (
        np.eye(3, 8)[labels] * np.array(apart)[:, None, None] for apart in ([0, 2, 9, 9, 9], [0, 0, 0, 0, 9])
    )
    return BlockFeatures(*(noise + np.stack([early, late])).astype(np.float32)), labels


def decide(features: BlockFeatures, labels: np.ndarray, **settings: object):
    return depth_from_features(features, labels, ScoreConfig(**settings))


@pytest.mark.parametrize("criterion", EXACT)
def test_the_index_keeps_each_blocks_score_of_the_view_that_the_criterion_names(criterion):
    features, labels = emerging()
    view = getattr(features, CRITERIA[criterion].view)
    expected = [CRITERIA[criterion].score(block, labels) for block in view]
    index = decide(features, labels, criterion=criterion, every=True)
    assert list(index.scores) == expected
    assert (index.criterion, index.blocks, index.samples, index.seed) == (criterion, 5, 60, 0)


def test_a_share_stops_the_walk_and_a_tolerance_looks_at_every_block():
    features, labels = emerging()
    share = decide(features, labels, criterion="silhouette", alpha=0.9)
    assert (share.depth, share.alpha, share.tolerance, share.scores[0]) == (3, 0.9, None, None)
    within = decide(BlockFeatures(features.served, features.scored), labels, criterion="ncm", tolerance=0.02)
    assert (within.depth, within.alpha, within.tolerance) == (3, None, 0.02)
    assert None not in within.scores


@pytest.mark.parametrize("criterion", ["silhouette", "cka"])
def test_without_an_alpha_a_criterion_cuts_by_its_own(criterion):
    features, labels = emerging()
    own = decide(features, labels, criterion=criterion)
    assert own == decide(features, labels, criterion=criterion, alpha=CRITERIA[criterion].alpha)
    assert own != decide(features, labels, criterion=criterion, alpha=0.5)


def test_the_papers_score_keeps_one_block_more_than_those_where_the_classes_are_apart():
    features, labels = emerging(samples=45)
    index = decide(BlockFeatures(features.scored[[0, 0, 3, 4]], features.served[:4]), labels)
    assert (index.criterion, index.alpha, index.depth, index.candidates) == ("sls", 0.3, 3, ())
    assert index.scores[1] < 0 < index.threshold < 0.5 < index.scores[2]


def test_a_t_sne_score_within_its_noise_of_the_threshold_leaves_both_depths_open():
    features, labels = emerging(samples=45)
    features = BlockFeatures(features.scored[:3], features.served[:3])
    scores = decide(features, labels, every=True).scores
    near = decide(features, labels, alpha=(scores[1] - 0.01) / scores[2])
    assert (near.depth, near.candidates) == (2, (2, 3))
    far = decide(features, labels, alpha=(scores[1] - 0.1) / scores[2])
    assert (far.depth, far.candidates) == (2, ())


@pytest.mark.parametrize("criterion", EXACT)
def test_the_order_of_the_rows_changes_nothing_in_the_index(criterion):
    features, labels = emerging()
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled = BlockFeatures(features.scored[:, order], features.served[:, order])
    assert decide(shuffled, labels[order], criterion=criterion) == decide(features, labels, criterion=criterion)


def test_each_scored_block_is_reported_from_the_top_with_its_score():
    features, labels = emerging()
    seen: list[Progress] = []
    index = depth_from_features(features, labels, ScoreConfig(criterion="knn"), seen.append)
    assert [progress.score for progress in seen] == list(index.scores)[::-1]
    assert [(progress.stage, progress.step, progress.steps) for progress in seen] == [
        ("score", i, 5) for i in range(1, 6)
    ]


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize(
    ("labels", "reason"),
    [(np.zeros(60, np.int64), "1 class"), (np.arange(60), "60 samples of 60 classes")],
)
def test_classes_that_cannot_be_told_apart_prune_nothing_and_say_why(criterion, labels, reason):
    index = decide(emerging()[0], labels, criterion=criterion)
    assert (index.depth, index.threshold, index.scores) == (5, None, (None,) * 5)
    assert reason in index.reason


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_a_feature_that_is_no_number_prunes_nothing_and_says_why(criterion):
    features, labels = emerging()
    features.scored[2, 5, 3] = features.served[2, 5, 3] = np.nan
    index = decide(features, labels, criterion=criterion)
    assert index.depth == 5
    assert "not a finite number" in index.reason


@pytest.mark.parametrize("criterion", EXACT)
def test_a_class_seen_once_is_scored(criterion):
    features, labels = emerging()
    labels = np.where(np.arange(60) == 7, 3, labels)
    assert decide(features, labels, criterion=criterion, every=True).reason is None


def test_fewer_images_than_perplexity_are_too_few_for_t_sne_and_enough_for_the_others():
    features, labels = emerging(samples=30)
    assert "more than 30" in decide(features, labels).reason
    assert decide(features, labels, criterion="ridge").reason is None


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_labels_of_the_wrong_length_are_refused(criterion):
    features, labels = emerging()
    with pytest.raises(DataError, match="59 labels for features of shape"):
        decide(features, labels[:-1], criterion=criterion)


@pytest.mark.parametrize(
    "wrong", [{"criterion": "tsne"}, {"samples": 0}, {"alpha": 1.5}, {"tolerance": 1.0}, {"tolerance": -0.01}]
)
def test_settings_that_no_run_can_use_are_refused_in_one_line(wrong):
    with pytest.raises(InvalidSettingError, match=r"^[^\n]+$"):
        ScoreConfig(**wrong)


def noisy_task() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1, :, :16] //= 4
    train = Split(tuple(images[:50]), labels[:50])
    return Dataset("halves", ("even", "odd"), train, Split((), labels[:0]), Split(tuple(images[50:]), labels[50:]))


def test_a_models_blocks_are_scored_on_the_first_training_images_by_content():
    task = noisy_task()
    model = toy_model().eval()
    settings = ScoreConfig(criterion="ridge", samples=40)
    index = look(model, task, settings, TRANSFORM, lambda _: None).index
    rows = task.train.content_order()[:40]
    features = block_features(model, task.train, TRANSFORM, rows=rows)
    assert index == depth_from_features(features, task.train.labels[rows], settings)
    assert (index.samples, index.blocks) == (40, 4)
    order = np.random.default_rng(2).permutation(50)
    train = Split(tuple(task.train.images[i] for i in order), task.train.labels[order])
    again = look(model, replace(task, train=train), settings, TRANSFORM, lambda _: None).index
    assert again == index
