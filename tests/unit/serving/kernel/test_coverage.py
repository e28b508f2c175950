"""What the kernel runs of a backbone, what it leaves to torch, and that a whole of both parts stays exact."""

from __future__ import annotations

import pytest
import torch
from support.kernel_cases import best_library, error, exact_logits, kernel_engine, random_batch
from support.oracle import make_backbone

from serving.engine.engine import Engine
from serving.kernel.support import coverage
from store.weights.backbones import Backbone

PLAIN = {"embed_dim": 64, "num_heads": 2, "depth": 2, "img_size": 16, "patch_size": 4}
WHOLE = (True, True, True)
CASES = {
    "plain": ({}, WHOLE),
    "layer scale, query and key norms, pre-norm": ({"init_values": 0.1, "qk_norm": True, "pre_norm": True}, WHOLE),
    "average pooling with fc_norm": ({"global_pool": "avg", "class_token": False, "fc_norm": True}, WHOLE),
    "maximum pooling": ({"global_pool": "max"}, (True, True, False)),
    "attention pooling": ({"global_pool": "map", "class_token": False}, (True, True, False)),
    "sizes that may change": ({"dynamic_img_size": True}, (True, False, True)),
    "neither": ({"dynamic_img_size": True, "global_pool": "avgmax"}, (True, False, False)),
    "a width of 48": ({"embed_dim": 48, "num_heads": 3}, (False, False, False)),
    "norms within attention and the MLP": ({"scale_attn_norm": True, "scale_mlp_norm": True}, (False, False, False)),
    "an activation that it does not have": ({"act_layer": "silu"}, (False, False, False)),
}


def backbone_of(arguments: dict[str, object], tmp_path) -> Backbone:
    return make_backbone(tmp_path, **{**PLAIN, **arguments})


@pytest.mark.parametrize(("arguments", "runs"), CASES.values(), ids=CASES)
def test_what_the_kernel_leaves_to_torch_is_exact_in_the_whole(tmp_path, arguments, runs):
    backbone = backbone_of(arguments, tmp_path)
    covered = coverage(backbone.skeleton())
    assert (covered.blocks, covered.stem, covered.pooling) == runs
    assert bool(covered.reason) is not covered.blocks
    batch = random_batch(backbone, 3, rows=5)
    by_torch = Engine(backbone, dtype=torch.bfloat16, kernel="off")
    rounded = Backbone(backbone.record, {name: t.bfloat16().float() for name, t in backbone.tensors.items()})
    exact = exact_logits(rounded, batch)
    own = (
        kernel_engine(backbone, best_library(), threads=2) if covered.blocks else Engine(backbone, dtype=torch.bfloat16)
    )
    answers = own.forward(batch.images, batch.tasks, batch.image_of)
    assert error(answers, exact) <= 1.1 * error(by_torch.forward(batch.images, batch.tasks, batch.image_of), exact)


def test_an_engine_of_a_backbone_that_the_kernel_does_not_run_says_why(tmp_path):
    choice = Engine(backbone_of({"act_layer": "silu"}, tmp_path), dtype=torch.bfloat16).kernel
    assert choice.name is None
    assert choice.reason
