"""Whatever tasks share a batch, each row answers as its task does alone in stock PEFT and timm: nothing is mixed up."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from support.custom_tasks import CUSTOM, custom_logits, make_custom_task
from support.formula_oracle import on_core_threads
from support.oracle import MODULES, TaskFolder, lowered, make_backbone, make_peft_task, reference_logits
from support.peft_tasks import CONFIGS
from torch import Tensor

from serving.engine.engine import Engine
from store.adapters.checkpoint import check, read_checkpoint
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights

IMAGES = 12
ROWS = 10_000
BATCH = 32
WITHIN = 1e-4  # of logits in float32


@dataclass(frozen=True)
class Case:
    """A task, and what it answers alone to each of the images."""

    name: str
    weights: TaskWeights
    alone: list[Tensor]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def tasks(backbone: Backbone, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """One task of every config, PEFT's and our own: its rank, depth, classes and modules are drawn."""
    draw, made = random.Random(0), []
    for seed, name in enumerate((*CONFIGS, *CUSTOM)):
        folder = tmp_path_factory.mktemp("task")
        depth = draw.randint(1, backbone.record.blocks)
        options = {"classes": round(2 * 500 ** draw.random()), "seed": seed}
        if name in CONFIGS:
            kinds = draw.sample(MODULES, draw.randint(1, len(MODULES)))
            targets = [f"blocks.{block}.{kind}" for block in range(depth) for kind in kinds]
            config = CONFIGS[name](targets, draw.randint(1, 12))
            task = make_peft_task(backbone, TaskFolder(folder, depth), config, **options)
            alone = reference_logits(backbone, task, images)
        else:
            task = make_custom_task(backbone, folder, name, depth=depth, rank=draw.randint(1, 12), **options)
            alone = custom_logits(backbone, task, images)
        check(read_checkpoint(folder), backbone.record, depth)
        made.append(Case(name, lowered(backbone, task), alone))
    return made


def test_ten_thousand_rows_of_random_mixes_answer_as_each_task_does_alone(
    backbone: Backbone, images: Tensor, tasks: list[Case]
) -> None:
    engines = (Engine(backbone), on_core_threads(Engine(backbone), 2), on_core_threads(Engine(backbone), 3))
    draw, seen = random.Random(1), Counter[str]()
    while seen.total() < ROWS:
        rows = [draw.choice(tasks) for _ in range(draw.randint(1, BATCH))]
        # as many images as rows, or fewer, so that tasks share what runs below their adapters
        shown = draw.sample(range(IMAGES), k=draw.randint(1, IMAGES))
        image_of = [draw.randrange(len(shown)) for _ in rows]
        answers = draw.choice(engines).forward(images[shown], [row.weights for row in rows], image_of)
        for row, place, logits in zip(rows, image_of, answers, strict=True):
            expected = row.alone[shown[place]]
            assert logits.shape == expected.shape, row.name
            difference = float((logits - expected).abs().max())
            assert difference <= WITHIN, f"{row.name} beside {[each.name for each in rows]}: off by {difference}"
        seen.update(row.name for row in rows)
    assert seen.keys() == {task.name for task in tasks}
    assert min(seen.values()) > 100


def test_the_tasks_differ_so_much_that_a_mix_up_would_be_seen(tasks: list[Case]) -> None:
    features = [(task.name, task.alone[0][:2]) for task in tasks]
    for index, (name, logits) in enumerate(features):
        for other, theirs in features[:index]:
            assert (logits - theirs).abs().max() > 10 * WITHIN, f"{name} and {other} answer alike"
