from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits
from support.oracle import TaskFolder, lowered, make_backbone, make_random_task, make_task, reference_logits

from serving.engine.engine import Engine
from store.errors import UnservedBackboneError
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import load_backbone
from store.weights.forms import Delta, Forms, TaskWeights

TASKS = 10


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(DEFAULT_BACKBONE)


@pytest.fixture(scope="module")
def tasks(backbone, tmp_path_factory) -> list[TaskFolder]:
    """Random tasks on the packaged backbone."""
    return [make_random_task(backbone, tmp_path_factory.mktemp("task"), seed) for seed in range(TASKS)]


def answers_alone(backbone, tasks: list[TaskFolder], images, dtype=torch.float32):
    """Every image answered by its own task alone; row i belongs to tasks[i % len(tasks)]."""
    alone = [None] * len(images)
    for index, made in enumerate(tasks):
        rows = range(index, len(images), len(tasks))
        for row, logits in zip(rows, reference_logits(backbone, made, images[list(rows)], dtype), strict=True):
            alone[row] = logits
    return alone


@pytest.mark.parametrize("seed", range(4))
def test_each_row_of_a_mixed_batch_equals_its_task_served_alone_by_timm_and_peft(backbone, tasks, seed):
    mix = random.Random(seed).choices(tasks, k=random.Random(seed).choice([1, 3, 9, 16]))
    images = torch.randn(len(mix), 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    mixed = Engine(backbone).forward(images, [lowered(backbone, made) for made in mix])
    for logits, made, image in zip(mixed, mix, images, strict=True):
        (alone,) = reference_logits(backbone, made, image[None])
        assert logits.shape == alone.shape
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=0)


def test_in_bfloat16_500_real_images_get_the_label_that_peft_gives_or_one_tied_with_it(backbone, tasks):
    scans = torch.tensor(load_digits().images[:500], dtype=torch.float32)[:, None] / 8 - 1
    images = torch.nn.functional.interpolate(scans, size=64).expand(-1, 3, -1, -1).contiguous()
    engine, weights = (
        Engine(backbone, dtype=torch.bfloat16),
        [lowered(backbone, made, torch.bfloat16) for made in tasks],
    )
    alone = answers_alone(backbone, tasks, images, torch.bfloat16)
    for start in range(0, 500, 50):
        batch = images[start : start + 50]
        mixed = engine.forward(batch, [weights[row % TASKS] for row in range(start, start + len(batch))])
        for row, logits in enumerate(mixed, start):
            # bfloat16 keeps 8 bits: twelve blocks round logits by about a hundredth of their spread
            tie = 0.02 * float(alone[row].max() - alone[row].min())
            assert alone[row][logits.argmax()] >= alone[row].max() - tie


VARIANTS = {
    "average pooling with fc_norm": {"global_pool": "avg", "class_token": False},
    "average pooling beside a class token": {"global_pool": "avg"},
    "layer scale": {"init_values": 0.1},
    "register tokens": {"reg_tokens": 4, "no_embed_class": True},
    "query and key norms": {"qk_norm": True},
    "pre-norm": {"pre_norm": True},
    "norms within attention and mlp": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "six blocks of patch 4": {"depth": 6, "patch_size": 4},
}


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_plain_vision_transformer_is_restated_exactly(tmp_path, arguments):
    backbone = make_backbone(tmp_path / "backbone", **arguments)
    tasks = [make_random_task(backbone, tmp_path / str(seed), seed) for seed in range(3)]
    images = torch.randn(6, 3, 32, 32)
    mixed = Engine(backbone).forward(images, [lowered(backbone, tasks[row % 3]) for row in range(6)])
    for logits, alone in zip(mixed, answers_alone(backbone, tasks, images), strict=True):
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=0)


def test_a_backbone_that_the_engine_does_not_restate_is_refused_by_name(tmp_path):
    with pytest.raises(UnservedBackboneError, match=r"ParallelScalingBlock.*use a timm VisionTransformer"):
        make_backbone(tmp_path, block_fn=__import__("timm").models.vision_transformer.ParallelScalingBlock)


def test_rows_leave_at_their_depth_shallowest_first_and_keep_the_order_of_the_request(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    depths = (2, 4, 1, 4)
    tasks = [
        lowered(backbone, make_task(backbone, tmp_path / str(i), depth=depth, classes=2 + i, seed=i))
        for i, depth in enumerate(depths)
    ]
    finished = list(Engine(backbone).run(torch.randn(4, 3, 32, 32), tasks))
    assert [done.rows for done in finished] == [(2,), (0,), (1, 3)]
    assert [len(logits) for done in finished for logits in done.logits] == [4, 2, 3, 5]


def test_rank_and_alpha_patterns_and_a_task_without_some_modules_mix_in_one_batch(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    patterned = make_task(
        backbone, tmp_path / "patterned", depth=3, classes=5,
        rank_pattern={"blocks.1.attn.qkv": 7}, alpha_pattern={"blocks.1.attn.qkv": 5, "mlp.fc1": 3},
    )  # fmt: skip
    plain = make_task(backbone, tmp_path / "plain", depth=2, classes=3, modules=("mlp.fc2",), seed=1)
    images = torch.randn(4, 3, 32, 32)
    mixed = Engine(backbone).forward(images, [lowered(backbone, made) for made in (patterned, plain) * 2])
    for logits, alone in zip(mixed, answers_alone(backbone, [patterned, plain], images), strict=True):
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("biases", [(True, False, True), (True, True, True), (True,)], ids=str)
def test_tasks_with_and_without_biases_mix_in_one_batch(tmp_path, biases):
    backbone = make_backbone(tmp_path / "backbone")
    tasks = [
        make_task(
            backbone, tmp_path / str(seed), depth=4 - seed, classes=3, rank=4 + seed % 2, seed=seed, lora_bias=bias,
            use_rslora=seed == 2, lora_alpha=5 + seed, modules=("attn.qkv", "mlp.fc1")[: 2 - seed % 2],
        )
        for seed, bias in enumerate(biases)
    ]  # fmt: skip
    images = torch.randn(2 * len(tasks), 3, 32, 32)
    mixed = Engine(backbone).forward(images, [lowered(backbone, made) for made in tasks * 2])
    unbiased = [without_biases(lowered(backbone, made)) for made in tasks]
    others = Engine(backbone).forward(images, unbiased * 2)
    for row, alone in enumerate(answers_alone(backbone, tasks, images)):
        torch.testing.assert_close(mixed[row], alone, atol=1e-4, rtol=0)
        assert torch.equal(mixed[row], others[row]) is not biases[row % len(tasks)]


def without_biases(weights: TaskWeights) -> TaskWeights:
    return replace(weights, forms=Forms({path: Delta(d.a, d.b) for path, d in weights.forms.deltas.items()}))


def test_a_bias_counts_in_the_bytes_that_a_task_takes(tmp_path):
    backbone = make_backbone(tmp_path / "backbone")
    sizes = {
        bias: lowered(backbone, make_task(backbone, tmp_path / str(bias), depth=2, classes=3, lora_bias=bias)).nbytes
        for bias in (True, False)
    }
    assert sizes[True] - sizes[False] == 2 * 4 * (3 + 1 + 4 + 1) * backbone.record.dim


def test_two_engines_do_not_influence_each_other_and_a_run_leaves_the_backbone_as_it_was(backbone, tasks):
    images = torch.randn(4, 3, 64, 64)
    weights = [lowered(backbone, made) for made in tasks[:4]]
    one, other = Engine(backbone), Engine(backbone)
    before = {name: tensor.clone() for name, tensor in one._model.vit.state_dict().items()}
    first = one.forward(images, weights)
    other.forward(images.flip(0), weights[::-1])
    for logits, again in zip(first, one.forward(images, weights), strict=True):
        assert torch.equal(logits, again)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one._model.vit.state_dict().items())
