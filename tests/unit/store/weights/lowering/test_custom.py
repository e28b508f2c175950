from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.custom_tasks import CUSTOM, custom_logits, make_custom_task
from support.oracle import TaskFolder, lowered, make_backbone, make_task, reference_logits
from torch.testing import assert_close

from serving.engine.engine import Engine
from store.errors import UnservedAdapterError
from store.weights.backbones import Backbone
from store.weights.forms import Bottleneck, Delta, Forms, Norm
from store.weights.lowering.custom import lower_bitfit, lower_ssf

every_method = pytest.mark.parametrize("method", CUSTOM)
KINDS = {
    "class token": {},
    "registers and layer scale": {"reg_tokens": 4, "init_values": 0.1},
    "average pooling without a class token": {"global_pool": "avg", "class_token": False},
    "an oblong grid of patch 4": {"img_size": (16, 32), "patch_size": 4},
    "no bias at qkv, pre-norm": {"qkv_bias": False, "pre_norm": True},
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def images_for(backbone: Backbone, count: int) -> torch.Tensor:
    preprocessing = backbone.record.id.preprocessing
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, preprocessing.height, preprocessing.width, generator=generator)


@every_method
@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
def test_the_engine_answers_as_the_method_within_timm_does(tmp_path, method, arguments):
    backbone = make_backbone(tmp_path / "backbone", **arguments)
    task = make_custom_task(backbone, tmp_path / "task", method, from_block=2)
    images = images_for(backbone, 3)
    answers = Engine(backbone).forward(images, [lowered(backbone, task)] * 3)
    for answer, alone in zip(answers, custom_logits(backbone, task, images), strict=True):
        assert_close(answer, alone, atol=1e-4, rtol=0)


@every_method
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_cut_is_served_at_its_depth(backbone, tmp_path, method, depth):
    task = make_custom_task(backbone, tmp_path, method, depth=depth, seed=depth)
    images = images_for(backbone, 2)
    answers = Engine(backbone).forward(images, [lowered(backbone, task)] * 2)
    for answer, alone in zip(answers, custom_logits(backbone, task, images), strict=True):
        assert_close(answer, alone, atol=1e-4, rtol=0)


def test_rows_of_every_method_and_of_lora_in_one_batch_are_each_as_alone(backbone, tmp_path):
    custom = [
        make_custom_task(
            backbone,
            tmp_path / f"{seed}",
            method,
            depth=1 + seed % 4,
            rank=2 + 2 * seed,
            classes=2 + 9 * seed,
            seed=seed,
        )
        for seed, method in enumerate(CUSTOM * 2)
    ]
    lora = make_task(backbone, tmp_path / "lora", depth=3, classes=5)
    tasks = [*custom, lora, *reversed(custom)]
    images = images_for(backbone, len(tasks))
    answers = Engine(backbone).forward(images, [lowered(backbone, task) for task in tasks])
    for row, task in enumerate(tasks):
        alone = reference_logits if task is lora else custom_logits
        assert_close(answers[row], alone(backbone, task, images[row : row + 1])[0], atol=1e-4, rtol=0)


@every_method
def test_the_adapter_does_something(backbone, tmp_path, method):
    task = make_custom_task(backbone, tmp_path, method)
    weights, images = lowered(backbone, task), images_for(backbone, 2)
    bare = type(weights)(weights.depth, Forms(), weights.head_weight, weights.head_bias, weights.labels)
    both = Engine(backbone).forward(images, [weights, bare])
    assert (both[0] - Engine(backbone).forward(images[:1], [bare])[0]).abs().max() > 0.1


FORMS = {
    "convpass": (0, 0, 6),
    "adaptformer": (0, 0, 3),
    "houlsby": (0, 0, 6),
    "adapter+": (0, 0, 3),
    "ssf": (12, 6, 0),
    "bitfit": (12, 6, 0),
}


@every_method
def test_each_place_is_one_form_in_float32(backbone, tmp_path, method):
    forms = lowered(backbone, make_custom_task(backbone, tmp_path, method)).forms
    assert (len(forms.deltas), len(forms.norms), len(forms.bottlenecks)) == FORMS[method]
    parts = (*forms.deltas.values(), *forms.norms.values(), *forms.bottlenecks.values())
    assert {tensor.dtype for form in parts for tensor in form._tensors().values()} == {torch.float32}


def test_no_low_rank_product_is_made_of_a_scale_or_a_shift(backbone, tmp_path):
    ssf, bitfit = (
        lowered(backbone, make_custom_task(backbone, tmp_path / method, method)).forms for method in ("ssf", "bitfit")
    )
    assert all(delta.a is None and delta.out_scale is not None for delta in ssf.deltas.values())
    assert all(delta.a is None and delta.out_scale is None for delta in bitfit.deltas.values())


def test_the_shapes_are_those_of_the_forms(backbone, tmp_path):
    forms = lowered(backbone, make_custom_task(backbone, tmp_path / "c", "convpass")).forms
    form: Bottleneck = forms.bottlenecks["blocks.0.attn"]
    assert [tuple(t.shape) for t in form._tensors().values()] == [(48, 8), (8,), (8, 48), (48,), (8, 8, 3, 3), (8,)]
    forms = lowered(backbone, make_custom_task(backbone, tmp_path / "s", "ssf")).forms
    delta: Delta = forms.deltas["blocks.2.mlp.fc1"]
    norm: Norm = forms.norms["blocks.2.norm1"]
    assert [tuple(t.shape) for t in delta._tensors().values()] == [(1, 1, 192)] * 2
    assert [tuple(t.shape) for t in norm._tensors().values()] == [(48,)] * 2


@every_method
def test_a_folder_in_bfloat16_is_served_as_its_rounded_numbers_say(backbone, tmp_path: Path, method):
    task: TaskFolder = make_custom_task(backbone, tmp_path, method)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({key: value.bfloat16() for key, value in load_file(weights).items()}, weights)
    images = images_for(backbone, 2)
    answers = Engine(backbone).forward(images, [lowered(backbone, task)] * 2)
    for answer, alone in zip(answers, custom_logits(backbone, task, images), strict=True):
        assert_close(answer, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lower", [lower_ssf, lower_bitfit])
@pytest.mark.parametrize("absent", ["weight", "bias"])
def test_a_norm_that_is_not_of_a_weight_and_a_bias_is_refused(backbone, lower, absent):
    tensors = {f"blocks.0.norm1.{name}": torch.ones(48) for name in ("scale", "shift", "bias")}
    bare = {key: value for key, value in backbone.tensors.items() if key != f"blocks.0.norm1.{absent}"}
    with pytest.raises(UnservedAdapterError, match=r"'blocks\.0\.norm1'.*tune the linear maps alone"):
        lower({"target_modules": ["blocks.0.norm1"]}, tensors, bare)
