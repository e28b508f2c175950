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
    "no bias at qkv, where the difference is the bias": {"qkv_bias": False},
}


@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
@torch.inference_mode()
def test_the_backbone_with_the_differences_in_its_biases_says_the_same(tmp_path, arguments):
    backbone = make_backbone(tmp_path, **arguments)
    tuned = random_tuned(backbone, "bitfit", from_block=2)
    merged = backbone.build()
    for key, difference in tuned.adapter.items():
        layer = merged.get_submodule(key.removesuffix(".bias"))
        layer.bias = nn.Parameter(difference if layer.bias is None else layer.bias + difference)
    check_merged(backbone, tuned, merged)


def test_it_trains_the_eleven_widths_of_biases_in_a_block_and_nothing_of_the_backbone(tmp_path):
    backbone = make_backbone(tmp_path)
    vit = METHODS["bitfit"].wrap(backbone, TunedModel(4, 8, {}, *(torch.zeros(2),) * 2, "bitfit"), torch.float32).vit
    assert sum(p.numel() for p in vit.parameters() if p.requires_grad) == 4 * 11 * 48
    assert not any(p.requires_grad for name, p in vit.named_parameters() if name in backbone.tensors)
