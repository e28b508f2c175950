"""Tasks that leave out patches, mixed in one batch, against stock timm from whose tokens they are taken out."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from support.formula_oracle import on_core_threads, plain_logits, random_weights
from support.narrow_twin import narrow_twin, random_width
from support.oracle import make_backbone
from support.token_twin import grid_of, random_tokens, with_tokens

from serving.engine.engine import Engine
from store.weights.width import kept_of

BLOCKS, SIZES = 4, {"heads": 3, "units": 192}
POOLINGS = (
    {},
    {"reg_tokens": 3},
    {"global_pool": "avg"},
    {"global_pool": "avg", "class_token": False, "fc_norm": True},
    {"global_pool": "map"},
)


def drawn(backbone, seed: int):
    """Draw a task of any depth, first block, forms, heads, units and patches, and its twin in timm."""
    draw = random.Random(seed)
    depth = draw.randint(1, BLOCKS)
    width = random_width(seed, depth, **SIZES) if draw.random() < 0.5 else None
    twin = backbone if width is None else narrow_twin(backbone, width)
    task = random_weights(twin, seed, depth=depth, first=draw.randint(1, depth + 1))
    task = replace(task, forms=replace(task.forms, kept=kept_of(width)))
    if "norm.weight" not in backbone.tensors:  # the norm comes after pooling, and is no task's
        task.forms.norms.pop("norm", None)
    return with_tokens(task, random_tokens(seed, depth, grid_of(backbone)) if draw.random() < 0.8 else None), twin


@pytest.mark.parametrize("pooling", range(len(POOLINGS)))
def test_rows_of_any_patches_widths_depths_and_forms_in_one_batch_equal_stock_timm(tmp_path, pooling):
    backbone = make_backbone(tmp_path, **POOLINGS[pooling])
    engine = on_core_threads(Engine(backbone, batch_invariant=pooling == 1), 1 + pooling % 2)
    made = [drawn(backbone, 100 * pooling + index) for index in range(10)]
    mix = random.Random(pooling).choices(made, k=14)
    images, image_of = torch.randn(5, 3, 32, 32), [random.Random(pooling).randrange(5) for _ in mix]
    answers = engine.forward(images, [task for task, _ in mix], image_of)
    for logits, (task, twin), image in zip(answers, mix, image_of, strict=True):
        expected = plain_logits(twin, task, images[image][None])[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
