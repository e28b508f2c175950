from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from sls.data.dataset import Split
from sls.scoring.features import block_features
from store.records.backbone import Preprocessing
from store.weights.preprocessing import make_transform

SPLIT = Split(tuple(np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)), np.arange(70) % 2)
TRANSFORM = make_transform(Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "center"))


def vit(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **sizes, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.inference_mode()
def truncated(model: torch.nn.Module, depth: int) -> torch.Tensor:
    """The slow twin: stock timm with the upper blocks cut off."""
    model.blocks = model.blocks[:depth]
    return model(SPLIT.inputs(range(len(SPLIT)), TRANSFORM))


POOLS = {
    "class token": {},
    "class token, pre-norm": {"pre_norm": True},
    "mean of patches": {"global_pool": "avg", "class_token": False},
    "mean before its norm": {"global_pool": "avg", "fc_norm": True},
    "registers": {"reg_tokens": 2},
}


@pytest.mark.parametrize("options", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_what_the_head_sees_at_a_depth_is_timm_cut_to_that_depth(options, depth):
    served = block_features(vit(**options), SPLIT, TRANSFORM).served[depth - 1]
    assert np.allclose(served, truncated(vit(**options), depth), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_what_is_scored_is_the_class_token_before_the_last_norm(depth):
    model = vit()
    model.norm = torch.nn.Identity()
    expected = truncated(model, depth)
    assert np.allclose(block_features(vit(), SPLIT, TRANSFORM).scored[depth - 1], expected, atol=1e-5)


def test_rows_come_in_the_order_asked_for():
    rows = np.array([5, 3, 60])
    some, everything = block_features(vit(), SPLIT, TRANSFORM, rows=rows), block_features(vit(), SPLIT, TRANSFORM)
    assert np.allclose(some.scored, everything.scored[:, rows], atol=1e-5)
