from __future__ import annotations

import pytest
import torch
from support.custom_tasks import check_merged, random_tuned
from support.oracle import make_backbone
from torch import nn

from sls.adapters.methods import METHODS
from sls.adapters.model import TunedModel

KINDS = {
    "class token": {},
    "registers and layer scale": {"reg_tokens": 4, "init_values": 0.1},
    "no bias at qkv, norms of queries and keys": {"qkv_bias": False, "qk_norm": True},
}


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_scales_and_shifts_folded_into_the_weights_say_the_same(tmp_path, arguments):
    """gamma * (W x + b) + beta = (gamma W) x + (gamma b + beta), as its paper merges it; a norm's w and b likewise."""
    backbone = make_backbone(tmp_path, **arguments)
    tuned = random_tuned(backbone, "ssf", from_block=2)
    merged = backbone.build()
    for key in [key for key in tuned.adapter if key.endswith(".scale")]:
        path = key.removesuffix(".scale")
        gamma, beta, layer = tuned.adapter[key], tuned.adapter[f"{path}.shift"], merged.get_submodule(path)
        layer.weight.copy_(torch.einsum("o,o...->o...", gamma, layer.weight))
        layer.bias = nn.Parameter(beta if layer.bias is None else gamma * layer.bias + beta)
    check_merged(backbone, tuned, merged)


def test_it_has_as_many_parameters_as_the_paper_counts_in_the_blocks(tmp_path):
    """Two vectors for each of two norms (d each), qkv (3d), proj (d), fc1 (4d) and fc2 (d): 22d a block."""
    backbone = make_backbone(tmp_path)
    vit = METHODS["ssf"].wrap(backbone, TunedModel(4, 8, {}, *(torch.zeros(2),) * 2, "ssf"), torch.float32).vit
    assert sum(p.numel() for p in vit.parameters() if p.requires_grad) == 4 * 22 * 48
    assert 12 * 22 * 768 == 202_752


def test_the_patch_embedding_and_the_last_norm_stay_as_they_are(tmp_path):
    tuned = random_tuned(make_backbone(tmp_path), "ssf")
    assert all(key.startswith("blocks.") for key in tuned.adapter)
    assert len(tuned.adapter) == 3 * 6 * 2
