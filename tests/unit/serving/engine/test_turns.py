"""Tasks that turn what a map takes or gives: beside others in the kernel's batches, with the bytes of each alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.kernel_cases import best_library, kernel_engine
from support.oracle import MODULES, TaskFolder, lowered, make_backbone, make_peft_task, reference_logits
from support.peft_tasks import CONFIGS
from torch import Tensor

from serving.engine.engine import Engine
from serving.kernel.task import PackedTask
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights

NAMES = ("oft", "boft", "road", "lora", "ia3", "oft, shared")
DEPTHS = (2, 4, 3, 4, 2, 3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"), embed_dim=96, num_heads=3)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_the_kernel_leaves_turned_tasks_to_torch_in_any_mix_and_split(
    backbone: Backbone, images: Tensor, tmp_path: Path
) -> None:
    tasks: list[TaskWeights] = []
    exact: list[list[Tensor]] = []
    for seed, (name, depth) in enumerate(zip(NAMES, DEPTHS, strict=True)):
        # adapted from the second block on, so that tasks of an image share the first
        targets = [f"blocks.{block}.{module}" for block in range(1, depth) for module in MODULES]
        made = make_peft_task(
            backbone, TaskFolder(tmp_path / name, depth), CONFIGS[name](targets, 3), classes=4, seed=seed
        )
        tasks.append(lowered(backbone, made, torch.bfloat16))
        exact.append(reference_logits(backbone, made, images))
    engine = kernel_engine(backbone, best_library())
    prepared = [engine.prepare(task) for task in tasks]
    assert [isinstance(task, PackedTask) for task in prepared] == [name in ("lora", "ia3") for name in NAMES]
    rows = [(task, image) for image in range(len(images)) for task in range(len(tasks))]
    mixed = engine.forward(images, [prepared[task] for task, _ in rows], [image for _, image in rows])
    torch_alone = Engine(backbone, dtype=torch.bfloat16, kernel="off", batch_invariant=True)
    for (task, image), logits in zip(rows, mixed, strict=True):
        (alone,) = engine.forward(images[image : image + 1], [prepared[task]])
        assert torch.equal(logits, alone), NAMES[task]
        (in_torch,) = torch_alone.forward(images[image : image + 1], [tasks[task]])
        spread = exact[task][image].std()
        assert (logits - exact[task][image]).abs().max() <= 0.1 * spread + 2 * (
            in_torch - exact[task][image]
        ).abs().max()
