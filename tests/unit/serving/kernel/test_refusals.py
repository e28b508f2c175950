"""Everything that would read or write beyond a buffer, or reach a neighbour, is refused before the C call."""

from __future__ import annotations

import pytest
import torch
from support.formula_oracle import random_weights
from support.kernel_cases import best_library, in_bfloat16, kernel_engine
from support.oracle import make_backbone

from serving.kernel.kernel import MOST_THREADS, Kernel, KernelRow
from serving.kernel.shapes import MOST_RANK
from store.errors import InvalidSettingError, RefusedError
from store.weights.forms import Bottleneck, Delta, Forms, Norm, TaskWeights

DIM, HIDDEN, BLOCKS = 64, 256, 3
ARGUMENTS = {"embed_dim": DIM, "num_heads": 2, "depth": BLOCKS, "img_size": 16, "patch_size": 4}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"), **ARGUMENTS)


@pytest.fixture(scope="module")
def engine(backbone):
    return kernel_engine(backbone, best_library(), threads=2)


@pytest.fixture(scope="module")
def kernel(engine) -> Kernel:
    return engine._model.kernel


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def task_of(deltas=None, norms=None, bottlenecks=None, **fields) -> TaskWeights:
    forms = Forms(deltas or {}, norms or {}, bottlenecks or {})
    return TaskWeights(
        **{"depth": BLOCKS, "forms": forms, "head_weight": ones(3, DIM), "head_bias": ones(3), "labels": (), **fields}
    )


def low_rank(rank: int = 4, in_: int = DIM, out: int = 3 * DIM) -> dict[str, torch.Tensor]:
    return {"a": ones(1, rank, in_), "b": ones(1, out, rank)}


def beside(**parts: torch.Tensor) -> Bottleneck:
    whole = {"down": ones(DIM, 5), "down_bias": ones(5), "up": ones(5, DIM), "up_bias": ones(DIM)}
    return Bottleneck("normed", "relu", **{**whole, **parts})


QKV, FC2 = "blocks.2.attn.qkv", "blocks.0.mlp.fc2"
WRONG_SHAPES = {
    "no blocks": task_of(depth=0),
    "more blocks than the backbone": task_of(depth=BLOCKS + 1),
    "a head of another width": task_of(head_weight=ones(3, DIM - 1)),
    "a head without all biases": task_of(head_bias=ones(2)),
    "a of too few numbers": task_of({QKV: Delta(**low_rank(in_=DIM - 2))}),
    "a of too many": task_of({QKV: Delta(**low_rank(in_=HIDDEN))}),
    "b of too few": task_of({QKV: Delta(**low_rank(out=DIM))}),
    "b of another rank": task_of({QKV: Delta(ones(1, 4, DIM), ones(1, 3 * DIM, 5))}),
    "a alone": task_of({QKV: Delta(a=ones(1, 4, DIM))}),
    "b alone": task_of({QKV: Delta(b=ones(1, 3 * DIM, 4))}),
    "a rank beyond the most": task_of({QKV: Delta(**low_rank(MOST_RANK + 1))}),
    "a bias that numpy would spread": task_of({QKV: Delta(bias=ones(1, 1, 1))}),
    "a scale of the other side": task_of({FC2: Delta(in_scale=ones(1, 1, DIM))}),
    "an output scale too long": task_of({FC2: Delta(out_scale=ones(1, 1, HIDDEN))}),
    "a norm of another width": task_of(norms={"blocks.1.norm1": Norm(ones(DIM), ones(DIM - 16))}),
    "a last norm of another width": task_of(norms={"norm": Norm(ones(DIM // 2), ones(DIM // 2))}),
    "a bottleneck that leads elsewhere": task_of(bottlenecks={"blocks.0.mlp": beside(up=ones(4, DIM))}),
    "one of another width": task_of(bottlenecks={"blocks.0.mlp": beside(down=ones(DIM - 1, 5))}),
    "one without all biases": task_of(bottlenecks={"blocks.0.attn": beside(down_bias=ones(4))}),
    "a convolution of 1 x 1": task_of(bottlenecks={"blocks.0.attn": beside(conv=ones(5, 5, 1, 1))}),
    "one too wide": task_of(
        bottlenecks={
            "blocks.0.attn": beside(
                down=ones(DIM, MOST_RANK + 1), down_bias=ones(MOST_RANK + 1), up=ones(MOST_RANK + 1, DIM)
            )
        }
    ),
}


@pytest.mark.parametrize("task", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_a_task_of_another_shape_is_refused_when_it_is_packed(engine, task):
    with pytest.raises(RefusedError) as refused:
        engine.prepare(task)
    assert len(str(refused.value).splitlines()) == 1


def test_a_rank_of_zero_changes_nothing_and_the_largest_one_runs(engine):
    images = torch.randn(1, 3, 16, 16)
    (plain,) = engine.forward(images, [task_of()])
    (nothing,) = engine.forward(images, [task_of({QKV: Delta(ones(1, 0, DIM), ones(1, 3 * DIM, 0))})])
    assert torch.equal(plain, nothing)
    largest = Delta(0.01 * ones(1, MOST_RANK, DIM), 0.01 * ones(1, 3 * DIM, MOST_RANK))
    (moved,) = engine.forward(images, [task_of({QKV: largest})])
    assert moved.isfinite().all()
    assert not torch.equal(moved, plain)


def numbers_of(task: TaskWeights) -> list[torch.Tensor]:
    forms = (*task.forms.deltas.values(), *task.forms.norms.values(), *task.forms.bottlenecks.values())
    return [task.head_weight, task.head_bias, *(tensor for form in forms for tensor in form._tensors().values())]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_part_of_a_task_may_have_a_number_that_is_not_finite(backbone, engine, value):
    task = in_bfloat16(random_weights(backbone, 7, depth=BLOCKS))
    engine.prepare(task)
    assert len(numbers_of(task)) > 20
    for tensor in numbers_of(task):
        before = tensor.clone()
        tensor.view(-1)[-1] = value
        with pytest.raises(RefusedError, match="infinite or NaN"):
            engine.prepare(task)
        tensor.copy_(before)
    engine.prepare(task)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_an_image_that_is_not_finite_spoils_its_own_rows_alone(backbone, engine, value):
    tasks = [in_bfloat16(random_weights(backbone, seed, depth=BLOCKS)) for seed in range(9)]
    images = torch.randn(9, 3, 16, 16)
    clean = engine.forward(images, tasks)
    for spoiled in (0, 4, 8):
        bad = images.clone()
        bad[spoiled] = value
        for row, (one, other) in enumerate(zip(engine.forward(bad, tasks), clean, strict=True)):
            assert torch.equal(one, other) == (row != spoiled)
    for one, other in zip(engine.forward(images, tasks), clean, strict=True):
        assert torch.equal(one, other), "the batch after a spoiled one found its numbers"


def row(task=None, place=0, image=0, exits=()) -> KernelRow:
    return KernelRow(task, place, image, exits)


@pytest.mark.parametrize(
    ("rows", "start", "stop"),
    [
        ([row(place=2)], 0, 1),
        ([row(place=-1)], 0, 1),
        ([row(image=1)], 0, 1),
        ([row(image=-1)], 0, 1),
        ([row(place=0), row(place=0)], 0, 1),
        ([row()], 0, BLOCKS + 1),
        ([row()], -1, 1),
        ([row()], 2, 1),
    ],
)
def test_rows_blocks_and_places_that_are_not_there_are_refused(kernel, rows, start, stop):
    with pytest.raises(InvalidSettingError):
        kernel.run(rows, kernel.empty_tokens(2), torch.zeros(1, 3, 16, 16), start, stop)


def test_tasks_in_another_order_of_other_engines_or_beyond_their_depth_are_refused(backbone, kernel):
    short, deep = (kernel.pack(task_of(depth=depth)) for depth in (1, 3))
    other = kernel_engine(backbone, best_library())._model.kernel.pack(task_of())
    logits = torch.zeros(3).data_ptr()
    wrong = {
        "deepest first": [row(short, 0, 0, [(short, logits)]), row(deep, 1, 0, [(deep, logits)])],
        "another engine": [row(other, 0, 0, [(other, logits)])],
        "no forms there": [row(short)],
        "by depth": [row(None, 0, 0, [(deep, logits), (short, logits)])],
        "an address": [row(deep, 0, 0, [(deep, 0)])],
    }
    for message, rows in wrong.items():
        with pytest.raises(InvalidSettingError, match=message):
            kernel.run(rows, kernel.empty_tokens(2), torch.zeros(1, 3, 16, 16), 0, 3)
    with pytest.raises(InvalidSettingError, match="by depth"):
        kernel.run([row(short, 0, 0, [(short, logits)])], kernel.empty_tokens(1), None, 1, 2)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 17, DIM),
        torch.zeros(1, 16, DIM, dtype=torch.bfloat16),
        torch.zeros(1, 17, DIM + 1, dtype=torch.bfloat16),
        torch.zeros(17, DIM, dtype=torch.bfloat16),
        torch.zeros(1, DIM, 17, dtype=torch.bfloat16).mT,
        torch.zeros(1, 17, DIM, dtype=torch.bfloat16, device="meta"),
    ],
)
def test_tokens_of_another_shape_dtype_layout_or_device_are_refused(kernel, x):
    with pytest.raises(InvalidSettingError):
        kernel.run([row()], x, None, 0, 1)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 16, 20),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(3, 16, 16),
        torch.zeros(1, 3, 16, 16, dtype=torch.float64),
        torch.zeros(1, 16, 16, 3).permute(0, 3, 1, 2),
        torch.zeros(1, 3, 16, 16, device="meta"),
    ],
)
def test_images_of_another_size_dtype_layout_or_device_are_refused(kernel, images):
    with pytest.raises(InvalidSettingError):
        kernel.run([row()], kernel.empty_tokens(1), images, 0, 1)


def test_an_engine_refuses_images_of_another_size(engine):
    with pytest.raises(InvalidSettingError, match="images"):
        engine.forward(torch.zeros(1, 3, 32, 16), [task_of()])


@pytest.mark.parametrize("threads", [0, -1, MOST_THREADS + 1])
def test_no_threads_or_very_many_are_refused(backbone, threads):
    with pytest.raises(InvalidSettingError, match="threads"):
        kernel_engine(backbone, best_library(), threads=threads)
