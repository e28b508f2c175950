from __future__ import annotations

import random

import pytest
import torch
from peft import LNTuningConfig, LoraConfig
from support.custom_tasks import CUSTOM, custom_logits, make_custom_task
from support.oracle import lowered
from support.swin_tasks import METHODS, SMALL, SWIN, make_swin, random_task, save_task, stock, stock_logits

from serving.engine.engine import Engine
from serving.kernel.support import coverage
from store.errors import InvalidSettingError, UnservedBackboneError
from store.weights.description import create_model
from store.weights.forms import Forms, TaskWeights

SIZES = {
    "windows that do not divide the patches": {},
    "windows as large as the patches": {"window_size": 9},
    "an odd number of patches in each stage": {"img_size": 44, "window_size": 4},
    "taller than wide": {"img_size": [48, 36]},
    "one stage": {"depths": [3], "num_heads": [2]},
    "maps without bias, wider heads": {"qkv_bias": False, "head_dim": 16},
    "sizes that may change": {"strict_img_size": False},
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_swin(tmp_path_factory.mktemp("swin"))


def bare(backbone, depth: int) -> TaskWeights:
    width = backbone.record.width_at(depth)
    return TaskWeights(depth, Forms(), torch.randn(4, width), torch.randn(4), tuple("abcd"))


@pytest.mark.parametrize("arguments", SIZES.values(), ids=SIZES)
def test_every_depth_of_a_swin_in_one_batch_gives_what_timm_built_at_that_depth_gives(tmp_path, arguments):
    backbone = make_swin(tmp_path, **arguments)
    tasks = [bare(backbone, depth) for depth in range(1, backbone.record.blocks + 1)]
    p = backbone.record.id.preprocessing
    images = torch.randn(len(tasks), 3, p.height, p.width)
    for image, task, logits in zip(images, tasks, Engine(backbone).forward(images, tasks), strict=True):
        feature = stock(backbone, task.depth)(image[None])[0]
        expected = task.head_weight @ feature + task.head_bias
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_mixed_batch_of_random_methods_ranks_and_depths_equals_stock_timm_and_peft(backbone, tmp_path, seed):
    draw = random.Random(seed)
    names = draw.sample(METHODS, 9)
    made = [random_task(backbone, tmp_path / str(i), name, 10 * seed + i) for i, name in enumerate(names)]
    rows = [*range(len(made)), *draw.choices(range(len(made)), k=5)]
    images = torch.randn(len(rows), 3, 36, 36)
    tasks = [lowered(backbone, task) for task in made]
    answered = Engine(backbone).forward(images, [tasks[row] for row in rows])
    for row, image, logits in zip(rows, images, answered, strict=True):
        (expected,) = stock_logits(backbone, made[row], image[None])
        torch.testing.assert_close(
            logits, expected, atol=1e-4, rtol=0, msg=lambda text, row=row: f"{names[row]}: {text}"
        )


def test_the_methods_that_peft_lacks_equal_their_modules_within_timm(backbone, tmp_path):
    made = [
        make_custom_task(backbone, tmp_path / name, name, depth=depth, seed=depth)
        for depth, name in enumerate(CUSTOM, 1)
    ]
    images = torch.randn(len(made), 3, 36, 36)
    answered = Engine(backbone).forward(images, [lowered(backbone, task) for task in made])
    for task, image, logits in zip(made, images, answered, strict=True):
        torch.testing.assert_close(logits, custom_logits(backbone, task, image[None])[0], atol=1e-4, rtol=0)


def test_norms_of_merges_and_the_last_one_are_a_tasks_own(backbone, tmp_path):
    names = r"norm|layers\.\d+\.downsample\.norm|layers\.\d+\.blocks\.\d+\.norm[12]"
    made = save_task(backbone, tmp_path, LNTuningConfig(target_modules=names), depth=6)
    image, plain = torch.randn(1, 3, 36, 36), bare(backbone, 6)
    task = lowered(backbone, made)
    assert {"norm", "blocks.2.downsample.norm", "blocks.5.downsample.norm"} < set(task.forms.norms)
    first, _ = Engine(backbone).forward(image, [task, plain], [0, 0])
    torch.testing.assert_close(first, stock_logits(backbone, made, image)[0], atol=1e-4, rtol=0)


def test_tasks_of_one_image_share_its_rows_up_to_the_merge_that_one_of_them_adapts(backbone, tmp_path):
    config = LoraConfig(r=2, target_modules=["layers.1.downsample.reduction"])
    task, image = lowered(backbone, save_task(backbone, tmp_path, config, depth=4)), torch.randn(1, 3, 36, 36)
    assert task.first_block == 3
    batch = Engine(backbone).begin(image, [task, bare(backbone, 6)], [0, 0])
    assert batch.remaining_blocks == 2 + 2 * 2 + 2


def test_alone_in_a_batch_or_split_between_blocks_the_same_bytes(backbone, tmp_path):
    made = [random_task(backbone, tmp_path / str(i), name, i) for i, name in enumerate(("lora", "dora", "ia3", "vera"))]
    tasks, engine = [lowered(backbone, task) for task in made], Engine(backbone, batch_invariant=True)
    images = torch.randn(4, 3, 36, 36)
    together = engine.forward(images, tasks)
    stepped = {row: x for done in engine.run(images, tasks) for row, x in zip(done.rows, done.logits, strict=True)}
    for row, task in enumerate(tasks):
        assert torch.equal(engine.forward(images[row : row + 1], [task])[0], together[row])
        assert torch.equal(stepped[row], together[row])


def test_bfloat16_runs_in_torch_and_the_kernel_says_why_it_does_not(backbone, tmp_path):
    made = random_task(backbone, tmp_path, "lora", 1)
    engine, images = Engine(backbone, dtype=torch.bfloat16), torch.randn(3, 3, 36, 36)
    assert engine.kernel.name is None
    assert "Swin" in coverage(backbone.skeleton()).reason
    exact = stock_logits(backbone, made, images)
    for logits, expected in zip(
        engine.forward(images, [lowered(backbone, made, torch.bfloat16)] * 3), exact, strict=True
    ):
        spread = float(expected.max() - expected.min())
        torch.testing.assert_close(logits, expected, atol=0.06 * max(1.0, spread), rtol=0)


def test_images_of_another_size_are_refused_in_one_line(backbone):
    with pytest.raises(InvalidSettingError, match="images of 32 x 36 pixels: this backbone takes 36 x 36"):
        Engine(backbone).forward(torch.randn(1, 3, 32, 36), [bare(backbone, 1)])
    with pytest.raises(UnservedBackboneError, match="which patches of"):
        create_model(SWIN, {**SMALL, "img_size": 38})
