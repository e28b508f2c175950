from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from support.formula_oracle import PlainLinear, on_core_threads, plain_logits, random_weights
from support.oracle import make_backbone

from serving.engine.adapter_ops import linear
from serving.engine.batch_run import BatchRun
from serving.engine.engine import Engine
from serving.engine.kernels import Linear
from store.weights.forms import Delta, TaskWeights

BLOCKS = 4
VARIANTS = {
    "a plain backbone": {},
    "layer scale": {"init_values": 0.1},
    "register tokens": {"reg_tokens": 3, "no_embed_class": True},
    "average pooling": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "norms within attention and mlp": {"scale_attn_norm": True, "scale_mlp_norm": True},
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return make_backbone(tmp_path_factory.mktemp("backbone"))


def assert_close(logits, task: TaskWeights, image, backbone) -> None:
    torch.testing.assert_close(logits, plain_logits(backbone, task, image[None])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_rows_with_every_form_mixed_in_one_batch_equal_each_task_written_into_timm_alone(tmp_path, arguments):
    backbone = make_backbone(tmp_path, **arguments)
    tasks = [random_weights(backbone, seed) for seed in range(12)]
    engines = (Engine(backbone), on_core_threads(Engine(backbone), 2))
    for seed in range(4):
        mix, engine = random.Random(seed).choices(tasks, k=12), engines[seed % 2]
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        for logits, task, image in zip(engine.forward(images, mix), mix, images, strict=True):
            assert_close(logits, task, image, backbone)


@pytest.mark.parametrize("seed", range(6))
def test_many_tasks_of_one_image_get_what_each_gets_alone(backbone, seed):
    draw = random.Random(seed)
    starts = [draw.randint(1, BLOCKS) for _ in range(10)]
    tasks = [
        random_weights(backbone, 100 * seed + index, first=first, depth=draw.randint(first, BLOCKS))
        for index, first in enumerate(starts)
    ]
    tasks += [random_weights(backbone, seed, first=BLOCKS + 1, depth=depth) for depth in (1, BLOCKS)]  # a head alone
    tasks += tasks[:2]
    images, image_of = torch.randn(3, 3, 32, 32), [draw.randrange(3) for _ in tasks]
    answers = Engine(backbone).forward(images, tasks, image_of)
    for logits, task, image in zip(answers, tasks, image_of, strict=True):
        assert_close(logits, task, images[image], backbone)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("adding", [False, True], ids=["the map", "the map and a residual"])
def test_a_linear_map_of_mixed_rows_is_the_formula_row_by_row(seed, adding):
    base, draw = torch.nn.Linear(24, 400), random.Random(seed)
    x, residual = torch.randn(9, 5, 24), torch.randn(9, 5, 400)
    kinds = ("bias", "in_scale", "out_scale", "a")
    deltas = [None, *(random_delta({kind for kind in kinds if draw.random() < 0.6}) for _ in range(8))]
    with torch.inference_mode():
        y = linear(x, Linear.of(base), deltas, residual if adding else None)
        for row, delta in enumerate(deltas):
            expected = base(x[row]) if delta is None else PlainLinear(base, delta)(x[row : row + 1])[0]
            torch.testing.assert_close(y[row], expected + residual[row] * adding, atol=1e-5, rtol=1e-4)


def random_delta(kinds: set[str]) -> Delta:
    sizes = {"bias": (1, 1, 400), "in_scale": (1, 1, 24), "out_scale": (1, 1, 400), "a": (1, 3, 24), "b": (1, 400, 3)}
    kinds = kinds | {"b"} if "a" in kinds else kinds
    return Delta(**{kind: torch.randn(*sizes[kind]) for kind in kinds})


class Counting:
    """Blocks that count the rows they run."""

    def __init__(self, blocks, counted: Counter[str]) -> None:
        self.blocks, self.counted = blocks, counted

    def run(self, x, forms, blocks):
        self.counted["rows"] += len(x) * len(blocks)
        return self.blocks.run(x, forms, blocks)


@pytest.mark.parametrize(
    ("first", "image_of", "rows"),
    [
        ((3, 3, 3, 3), (0, 0, 0, 0), 2 + 4 * 2),
        ((1, 1, 1, 1), (0, 0, 0, 0), 4 * 4),
        ((3, 3, 3, 3), (0, 1, 2, 3), 4 * 4),
        ((5, 5, 5, 5), (0, 0, 0, 0), 4),
        ((2, 3, 4, 5), (0, 0, 1, 1), 1 + 2 + 2 + 2 + 1 + 1 + 1 + 2),
    ],
    ids=str,
)
def test_blocks_below_the_first_adapted_one_run_once_for_all_tasks_of_an_image(backbone, first, image_of, rows):
    tasks = [random_weights(backbone, index, first=each, depth=BLOCKS) for index, each in enumerate(first)]
    tasks = [
        task if task.first_block == f else pytest.fail("drawn empty") for task, f in zip(tasks, first, strict=True)
    ]
    counted: Counter[str] = Counter()
    model = Engine(backbone)._model
    model = replace(model, blocks=Counting(model.blocks, counted))
    run = BatchRun(model.begin(torch.randn(max(image_of) + 1, 3, 32, 32), tasks), tasks, image_of)
    while not run.done:
        before, expected = counted["rows"], run.remaining_blocks
        run.run_blocks(1)
        assert run.remaining_blocks == expected - (counted["rows"] - before)
    assert counted["rows"] == rows


def test_a_task_asked_twice_for_an_image_runs_once(backbone):
    task = random_weights(backbone, 1, depth=BLOCKS)
    run = Engine(backbone).begin(torch.randn(1, 3, 32, 32), [task, task], [0, 0])
    assert run.remaining_blocks == BLOCKS
    assert run.rows == 2


def test_two_batches_that_take_turns_get_what_each_gets_alone(backbone):
    engine = Engine(backbone)
    batches = [[random_weights(backbone, 10 * batch + row) for row in range(4)] for batch in range(2)]
    images = torch.randn(2, 4, 3, 32, 32)
    alone = [engine.forward(images[index], batch) for index, batch in enumerate(batches)]
    runs = [engine.begin(images[index], batch) for index, batch in enumerate(batches)]
    answers: list[dict[int, torch.Tensor]] = [{}, {}]
    while not all(run.done for run in runs):
        for run, answered in zip(runs, answers, strict=True):
            finished = None if run.done else run.run_blocks(1)
            answered.update({} if finished is None else dict(zip(finished.rows, finished.logits, strict=True)))
    for answered, expected in zip(answers, alone, strict=True):
        assert all(torch.equal(answered[row], logits) for row, logits in enumerate(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batch_invariant_the_bytes_of_an_answer_depend_on_no_neighbour(backbone, dtype):
    tasks = [random_weights(backbone, seed) for seed in range(8)]
    tasks = [
        TaskWeights(t.depth, t.forms.to("cpu", dtype), t.head_weight.to(dtype), t.head_bias.to(dtype), ())
        for t in tasks
    ]
    images = torch.randn(8, 3, 32, 32)
    engine = Engine(backbone, dtype=dtype, batch_invariant=True)
    alone = [engine.forward(images[i : i + 1], tasks[i : i + 1])[0] for i in range(8)]
    for seed in range(5):
        rows = random.Random(seed).sample(range(8), k=random.Random(seed).randint(2, 8))
        mixed = engine.forward(images[rows], [tasks[row] for row in rows])
        for logits, row in zip(mixed, rows, strict=True):
            assert torch.equal(logits, alone[row])
