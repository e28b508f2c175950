"""Images are decoded once where their inputs fit into memory, and what is trained is the same where they do not."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from support.toy_datasets import colours, same, toy_backbone

from sls.adapters.model import TunedModel
from sls.pipeline.retune import untrained
from sls.progress import ignore_progress
from sls.training import frozen_prefix
from sls.training.recipe import TrainingConfig
from sls.training.tune import tune
from store.weights.preprocessing import make_transform

BACKBONE, DATASET = toy_backbone(), colours(train=12, validation=6)
TRANSFORM = make_transform(BACKBONE.record.id.preprocessing)
ONE = 3 * 32 * 32 * 2  # bytes of an input in bfloat16


def trained(**recipe: object) -> tuple[TunedModel, int]:
    """Tune for three epochs; return the result, and how often an image was transformed."""
    seen: list[Image.Image] = []

    def counting(image: Image.Image) -> torch.Tensor:
        seen.append(image)
        return TRANSFORM(image)

    config = TrainingConfig(epochs=3, batch=6, **recipe)
    start = untrained(DATASET, BACKBONE, config)
    return tune(DATASET, BACKBONE, start, config, transform=counting, stage="", progress=ignore_progress), len(seen)


@pytest.mark.parametrize(("room", "count"), [(1 << 20, 12 + 6), (8 * ONE, 8 + 3 * 4 + 6), (0, 3 * (12 + 6))])
def test_inputs_are_kept_while_there_is_room_and_change_nothing(monkeypatch, room, count):
    whole, _ = trained()
    monkeypatch.setattr(frozen_prefix, "INPUT_NBYTES", room)
    found, times = trained()
    assert times == count
    assert same(found, whole)


def test_augmented_images_are_made_anew_and_mixed_ones_are_not():
    assert trained(augment="light")[1] == 3 * 12 + 6
    assert trained(mixup=0.2)[1] == 12 + 6
