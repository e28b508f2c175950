"""Augmented and mixed images: drawn from seed, epoch and image; a run that was interrupted ends with the same bits."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from support.toy_datasets import InterruptionError, colours, same, toy_backbone
from torch.nn import functional

from sls.adapters.model import TunedModel
from sls.pipeline.retune import untrained
from sls.training.augmentation import Augmentation
from sls.training.recipe import TrainingConfig
from sls.training.trainer import balanced_weights
from sls.training.tune import tune
from store.errors import InvalidSettingError
from store.weights.preprocessing import make_transform

BACKBONE, DATASET = toy_backbone(), colours()
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
POLICIES = ["light", "rand-m9-mstd0.5", "augmix-m3", "v0"]


def train(config: TrainingConfig, **options: object) -> TunedModel:
    start = untrained(DATASET, BACKBONE, config)
    arguments = {"transform": TRANSFORM, "stage": "tune", "progress": lambda _: None, **options}
    return tune(DATASET, BACKBONE, start, config, **arguments)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_image_is_changed_by_seed_epoch_and_row_alone(policy):
    change = Augmentation(policy, seed=3)
    before = random.getstate(), np.random.get_state()[1].tolist()
    images = {key: np.asarray(change(IMAGE, epoch=key[0], row=key[1])).tobytes() for key in np.ndindex(2, 8)}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    again = Augmentation(policy, seed=3)(IMAGE, epoch=1, row=0)
    assert np.asarray(again).tobytes() == images[1, 0]
    assert len(set(images.values())) > 8


@pytest.mark.parametrize("policy", ["lightly", "rand-m9-x", "rand-zz", "", "light-m3", 3])
def test_a_policy_that_is_none_is_refused_when_the_config_is_made(policy):
    with pytest.raises(InvalidSettingError, match="augment"):
        TrainingConfig(augment=policy)


@pytest.mark.parametrize(
    "recipe",
    [{"augment": "light"}, {"mixup": 0.4}, {"augment": "rand-m5-n1", "mixup": 0.2, "from_block": 3}],
    ids=["light", "mixup", "both"],
)
def test_a_training_that_varies_its_images_resumes_to_the_same_bits(tmp_path, recipe):
    config = TrainingConfig(epochs=3, **recipe)
    whole = train(config)

    def interrupt(step: object) -> None:
        if step.step == 2:
            raise InterruptionError

    checkpoint = tmp_path / "run.safetensors"
    with pytest.raises(InterruptionError):
        train(config, checkpoint=checkpoint, progress=interrupt)
    assert same(train(config, checkpoint=checkpoint), whole)
    assert not same(train(TrainingConfig(epochs=3, from_block=config.from_block)), whole)


@pytest.mark.parametrize("recipe", [{"label_smoothing": 0.2}, {"class_weights": "balanced"}, {"warmup": 0.5}])
def test_each_option_changes_the_training(recipe):
    uneven = TrainingConfig(epochs=1)
    assert not same(train(TrainingConfig(epochs=1, **recipe)), train(uneven))


def test_balanced_weights_give_each_class_the_same_share_of_the_loss():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
    weights = balanced_weights(labels, 3)
    shares = [float(weights[label] * (labels == label).sum()) for label in range(3)]
    assert shares == pytest.approx([3.0, 3.0, 3.0])
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    each = functional.cross_entropy(logits, labels, reduction="none")
    by_hand = sum(each[labels == label].mean() for label in range(3)) / 3
    assert float(functional.cross_entropy(logits, labels, weight=weights)) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"warmup": 1.0}, {"label_smoothing": -0.1}, {"mixup": -1}, {"class_weights": "even"}, {"mixup": "0.2"}]
)
def test_a_recipe_that_no_training_can_follow_is_refused(wrong):
    with pytest.raises(InvalidSettingError):
        TrainingConfig(**wrong)
