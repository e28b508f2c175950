"""Random backbones, tasks and batches: no less exact than torch's path, and the same bytes however a batch is run."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.kernel_cases import (
    Batch,
    best_library,
    error,
    exact_logits,
    kernel_engine,
    random_backbone,
    random_batch,
)
from support.native_builds import native_build
from torch import Tensor

from serving.engine.engine import Engine
from serving.kernel.instruction_sets import choose_kernel, missing_features
from serving.kernel.variants import VARIANTS

ALLOWANCE = 1.1  # of torch's error over many rows: both round, each in its own order
OF_ONE_BATCH = 4  # of a few rows, of which one may be badly conditioned: the ratio of two such errors has a long tail
SEEDS = st.integers(0, 2**20)


def in_parts(engine: Engine, batch: Batch, draw: random.Random) -> list[Tensor]:
    """Run the batch in calls of a random number of blocks each."""
    logits: dict[int, Tensor] = {}
    run = engine.begin(batch.images, batch.tasks, batch.image_of)
    while not run.done:
        if (finished := run.run_blocks(draw.randint(1, 4))) is not None:
            logits |= zip(finished.rows, finished.logits, strict=True)
    return [logits[row] for row in range(len(batch.tasks))]


def same_bytes(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(one, other, strict=True))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(SEEDS)
def test_a_row_is_as_exact_as_in_torch_and_has_the_same_bytes_in_any_batch(seed: int) -> None:
    draw = random.Random(seed)
    backbone = random_backbone(seed)
    batch = random_batch(backbone, seed, rows=draw.randint(1, 10))
    engine = kernel_engine(backbone, best_library())
    answers = engine.forward(batch.images, batch.tasks, batch.image_of)

    exact = exact_logits(backbone, batch)
    by_torch = Engine(backbone, dtype=torch.bfloat16, kernel="off")
    allowed = OF_ONE_BATCH * error(by_torch.forward(batch.images, batch.tasks, batch.image_of), exact)
    assert error(answers, exact) <= allowed, backbone.record.id.arguments

    assert same_bytes(answers, [engine.forward(*batch.row(index))[0] for index in range(len(batch.tasks))])
    order = draw.sample(range(len(batch.tasks)), k=draw.randint(1, len(batch.tasks)))
    some = Batch([batch.tasks[i] for i in order], batch.images, [batch.image_of[i] for i in order])
    threads = kernel_engine(backbone, best_library(), threads=draw.choice((2, 3)))
    assert same_bytes([answers[i] for i in order], threads.forward(some.images, some.tasks, some.image_of))
    assert same_bytes(answers, in_parts(threads, batch, draw))


@pytest.mark.parametrize("name", [*VARIANTS, "portable"])
def test_each_instruction_set_and_the_portable_twin_are_as_exact_as_torch(name: str) -> None:
    if name in VARIANTS and missing_features(name):
        pytest.skip(f"this CPU cannot run {name}: {missing_features(name)}")
    library = choose_kernel(name).library if name in VARIANTS else native_build(name)
    assert library is not None
    answers, torchs, exact = [], [], []
    for seed in range(6):
        backbone = random_backbone(seed, 1500)
        batch = random_batch(backbone, seed, rows=4, ranks=(0, 3, 33))
        rows = batch.images, batch.tasks, batch.image_of
        exact += exact_logits(backbone, batch)
        torchs += Engine(backbone, dtype=torch.bfloat16, kernel="off").forward(*rows)
        answers += kernel_engine(backbone, library, threads=2).forward(*rows)
    assert error(answers, exact) <= ALLOWANCE * error(torchs, exact)


def test_the_measure_sees_one_row_that_got_its_neighbours_task() -> None:
    backbone = random_backbone(1)
    batch = random_batch(backbone, 1, rows=4)
    exact = exact_logits(backbone, batch)
    mixed_up = [exact[1][: len(exact[0])] if len(exact[1]) >= len(exact[0]) else exact[0].flip(0), *exact[1:]]
    assert error(mixed_up, exact) > 0.1
