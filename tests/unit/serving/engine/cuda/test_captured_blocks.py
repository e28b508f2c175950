"""Captured steps on a CPU: the same answers as the torch path, a bounded number of captures, buffers that stay."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.captured_engine import captured_blocks, with_captured_blocks
from support.formula_oracle import random_weights
from support.oracle import make_backbone
from support.token_twin import grid_of, random_tokens, with_tokens

from serving.engine.cuda.captured_blocks import BUCKETS, CapturedBlocks
from serving.engine.cuda.pointer_tables import ALIGNMENT, MAX_RANK, PointerTables
from serving.engine.cuda.row_ops import StaticRows, TorchRowOps
from serving.engine.engine import Engine
from store.errors import InvalidSettingError
from store.weights.backbones import Backbone
from store.weights.forms import Delta, Forms, TaskWeights

IMAGES = 5
WITHIN = 1e-4
VARIANTS = {"plain": {}, "layer scale": {"init_values": 0.1}, "query and key norms": {"qk_norm": True}}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS)
def backbone(request, tmp_path_factory) -> Backbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"), **request.param)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_low_rank(backbone: Backbone, draw: random.Random) -> TaskWeights:
    """A task of any rank and depth, without anything else."""
    depth, rank = draw.randint(1, backbone.record.blocks), draw.choice((1, 4, 9, 64))
    deltas = {
        path: Delta(torch.randn(1, rank, fan_in) * 0.05, torch.randn(1, fan_out, rank) * 0.05)
        for path, (fan_out, fan_in) in backbone.record.modules.items()
        if int(path.split(".")[1]) < depth and draw.random() < 0.5
    }
    return TaskWeights(depth, Forms(deltas), torch.randn(3, backbone.record.dim), torch.zeros(3), ())


def assert_alike(answers: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for logits, others in zip(answers, expected, strict=True):
        torch.testing.assert_close(logits, others, atol=WITHIN, rtol=0)


def observed_blocks(backbone: Backbone, **options: Any) -> tuple[CapturedBlocks, StaticRows]:
    """Return blocks, and the static buffers that they made for themselves."""
    made: list[StaticRows] = []

    def ops(rows: StaticRows) -> TorchRowOps:
        made.append(rows)
        return TorchRowOps(rows)

    return captured_blocks(Engine(backbone), ops, **options), made[0]


def test_batches_of_any_forms_and_depths_answer_as_in_the_torch_path(backbone, images):
    plain, blocks = Engine(backbone), captured_blocks(Engine(backbone))
    engine, draw = with_captured_blocks(Engine(backbone), blocks), random.Random(0)
    tasks = [random_weights(backbone, seed) for seed in range(12)]
    tasks += [with_tokens(task, random_tokens(9, task.depth, grid_of(backbone))) for task in tasks[:4]]
    tasks += [random_low_rank(backbone, draw) for _ in range(12)]
    for _ in range(15):
        rows = [draw.choice(tasks) for _ in range(draw.choice((1, 3, 9, 20)))]
        image_of = [draw.randrange(IMAGES) for _ in rows]
        assert_alike(engine.forward(images, rows, image_of), plain.forward(images, rows, image_of))


def test_the_kernels_serve_whole_batches(backbone, images):
    ops = pytest.importorskip("serving.engine.cuda.triton_row_ops", reason="this build of torch brings no Triton")
    engine = with_captured_blocks(Engine(backbone), captured_blocks(Engine(backbone), ops.TritonRowOps))
    tasks = [random_weights(backbone, seed, depth=2) for seed in range(3)]
    assert_alike(engine.forward(images[:3], tasks), Engine(backbone).forward(images[:3], tasks))


def test_batches_that_take_turns_keep_their_rows(backbone, images):
    plain, draw = Engine(backbone), random.Random(4)
    engine = with_captured_blocks(Engine(backbone), captured_blocks(Engine(backbone)))
    batches = [[random_low_rank(backbone, draw) for _ in images] for _ in range(3)]
    runs, answers = [engine.begin(images, tasks) for tasks in batches], [{}, {}, {}]
    while waiting := [index for index, run in enumerate(runs) if not run.done]:
        index = draw.choice(waiting)
        if (finished := runs[index].run_blocks(1)) is not None:
            answers[index].update(zip(finished.rows, finished.logits, strict=True))
    for tasks, logits in zip(batches, answers, strict=True):
        assert_alike([logits[row] for row in range(IMAGES)], plain.forward(images, tasks))


def test_more_rows_than_the_largest_bucket_run_in_parts_and_those_of_a_bucket_in_one(backbone, images):
    blocks, sizes = captured_blocks(Engine(backbone), buckets=(1, 2, 4)), []
    engine, draw = with_captured_blocks(Engine(backbone), blocks), random.Random(5)
    tasks = [random_low_rank(backbone, draw) for _ in range(11)]
    image_of = [row % IMAGES for row in range(11)]
    assert_alike(engine.forward(images, tasks, image_of), Engine(backbone).forward(images, tasks, image_of))
    sizes = {count for _, count, _ in blocks.captures}
    assert sizes <= {1, 2, 4}
    assert 4 in sizes


def test_a_thousand_tasks_of_random_ranks_and_depths_capture_nothing_after_warming_up(backbone, images):
    blocks = captured_blocks(Engine(backbone), buckets=(1, 2, 4, 6, 8))
    engine, draw = with_captured_blocks(Engine(backbone), blocks), random.Random(6)
    captured = blocks.warm()
    assert captured == 5 * backbone.record.blocks * 2
    for _ in range(1000 // 8):
        tasks = [random_low_rank(backbone, draw) for _ in range(8)]
        assert len(engine.forward(images, tasks, [row % IMAGES for row in range(8)])) == 8
    assert len(blocks.captures) == captured
    assert len(blocks.tables) <= 16  # those of tasks that are gone went with them


def test_the_buffers_and_the_table_stay_where_they_were(backbone, images):
    (blocks, rows), draw = observed_blocks(backbone), random.Random(7)
    engine = with_captured_blocks(Engine(backbone), blocks)
    before = [tensor.data_ptr() for tensor in (rows.x, rows.table, rows.low)]
    for _ in range(5):
        engine.forward(images, [random_low_rank(backbone, draw) for _ in images])
    assert [tensor.data_ptr() for tensor in (rows.x, rows.table, rows.low)] == before


def test_a_capture_never_reads_the_tables_of_an_earlier_batch(backbone, images):
    """Its step runs once before the rows are there, when the earlier tasks may be gone."""
    seen: list[torch.Tensor] = []

    def capture(step: Callable[[], object]) -> Callable[[], object]:
        seen.append(rows.table.clone())
        step()
        return step

    blocks, rows = observed_blocks(backbone, capture=capture)
    engine, draw = with_captured_blocks(Engine(backbone), blocks), random.Random(8)
    for count in (2, 5):
        engine.forward(images[:count], [random_low_rank(backbone, draw) for _ in range(count)])
        gc.collect()
    unadapted = seen[0]
    assert len(seen) > 2
    assert all(torch.equal(table, unadapted) for table in seen)
    assert not unadapted[:, :, :4].any()  # no map has a factor


def test_a_table_is_written_again_after_a_capture_that_emptied_it(backbone, images):
    engine = with_captured_blocks(Engine(backbone), captured_blocks(Engine(backbone)))
    draw = random.Random(9)
    deep = [random_weights(backbone, 3, depth=backbone.record.blocks) for _ in range(2)]
    shallow = replace(random_low_rank(backbone, draw), depth=1)
    run, expected = engine.begin(images[:2], deep), Engine(backbone).forward(images[:2], deep)
    run.run_blocks(1)
    engine.forward(images[:3], [shallow] * 3)  # captures, and takes the static table
    answers = {}
    while not run.done:
        if (finished := run.run_blocks(1)) is not None:
            answers.update(zip(finished.rows, finished.logits, strict=True))
    assert_alike([answers[0], answers[1]], expected)


@pytest.fixture
def writes(backbone, monkeypatch):
    """Captured blocks, and a list that grows with each write of the static table."""
    blocks, written = captured_blocks(Engine(backbone), buckets=(1, 2, 4, 8)), []
    blocks.warm()
    stack = blocks.tables.stack
    monkeypatch.setattr(blocks.tables, "stack", lambda *given: written.append(given) or stack(*given))
    return blocks, written


def test_the_table_is_written_once_for_a_batch_whose_rows_end_one_by_one(backbone, images, writes):
    blocks, written = writes
    engine = with_captured_blocks(Engine(backbone), blocks)
    drawn = [random_weights(backbone, row, depth=1 + row % backbone.record.blocks) for row in range(IMAGES)]
    tasks = [replace(task, forms=replace(task.forms, bottlenecks={})) for task in drawn]
    for _ in range(2):
        assert_alike(engine.forward(images, tasks), Engine(backbone).forward(images, tasks))
    assert len(written) == 1


def test_a_table_that_names_memory_which_is_gone_is_written_again(backbone, images, writes):
    blocks, written = writes
    engine, head = with_captured_blocks(Engine(backbone), blocks), (torch.zeros(2, backbone.record.dim), torch.zeros(2))
    biased = {"blocks.0.mlp.fc1": Delta(bias=torch.ones(1, 1, 4 * backbone.record.dim))}
    tasks = [TaskWeights(1, Forms(biased), *head, ()) for _ in range(4)]
    for count in (4, 3):  # three rows take the bucket of four
        engine.forward(images[:count], tasks[:count])
    assert len(written) == 1
    del tasks[3]
    gc.collect()
    engine.forward(images[:3], tasks)
    assert len(written) == 2


def test_rank_above_the_table_s_and_bottlenecks_run_in_the_torch_path(backbone, images):
    blocks, path = captured_blocks(Engine(backbone)), "blocks.0.attn.qkv"
    fan_out, fan_in = backbone.record.modules[path]
    high = Delta(torch.randn(1, MAX_RANK + 1, fan_in) * 0.01, torch.randn(1, fan_out, MAX_RANK + 1) * 0.01)
    head = torch.randn(2, backbone.record.dim), torch.zeros(2)
    task, engine = TaskWeights(1, Forms({path: high}), *head, ()), with_captured_blocks(Engine(backbone), blocks)
    assert_alike(engine.forward(images, [task] * IMAGES), Engine(backbone).forward(images, [task] * IMAGES))
    assert len(blocks.captures) == 0


def test_a_factor_at_an_odd_address_is_copied_to_an_aligned_one(backbone, images):
    path = "blocks.0.mlp.fc1"
    fan_out, fan_in = backbone.record.modules[path]
    a = torch.randn(4 * fan_in + 1)[1:].view(1, 4, fan_in)
    assert a.data_ptr() % ALIGNMENT
    task = TaskWeights(
        1, Forms({path: Delta(a, torch.randn(1, fan_out, 4))}), torch.randn(2, backbone.record.dim), torch.zeros(2), ()
    )
    blocks, rows = observed_blocks(backbone)
    engine = with_captured_blocks(Engine(backbone), blocks)
    assert_alike(engine.forward(images, [task] * IMAGES), Engine(backbone).forward(images, [task] * IMAGES))
    assert not (rows.table % ALIGNMENT)[:, :, :, :2].any()


@pytest.mark.parametrize(("rank", "copies"), [(8, 0), (16, 0), (3, 1)])
def test_only_factors_whose_ranks_are_filled_up_are_copied(backbone, rank, copies):
    fan_out, fan_in = backbone.record.modules["blocks.0.mlp.fc1"]
    delta = Delta(torch.randn(1, rank, fan_in), torch.randn(1, fan_out, rank))
    table = PointerTables(backbone.build()).of(Forms({"blocks.0.mlp.fc1": delta}))
    own = {delta.a.data_ptr(), delta.b.data_ptr()}
    assert sum(tensor.data_ptr() not in own for tensor in table.kept) == copies


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (Delta(torch.zeros(1, 2, 48, dtype=torch.float64), torch.zeros(1, 144, 2)), "float64.*engine's dtype"),
        (Delta(torch.zeros(1, 2, 47), torch.zeros(1, 144, 2)), r"a is \(1, 2, 47\).*task of this backbone"),
        (Delta(bias=torch.zeros(1, 1, 143)), r"bias is \(1, 1, 143\)"),
    ],
)
def test_what_a_kernel_would_read_wrongly_is_refused(backbone, images, delta, message):
    task = TaskWeights(1, Forms({"blocks.0.attn.qkv": delta}), torch.zeros(2, 48), torch.zeros(2), ())
    engine = with_captured_blocks(Engine(backbone), captured_blocks(Engine(backbone)))
    with pytest.raises(InvalidSettingError, match=message):
        engine.forward(images[:1], [task])


def test_batch_invariance_runs_each_row_alone_in_a_bucket_of_one(backbone, images):
    blocks = captured_blocks(Engine(backbone))
    engine = with_captured_blocks(Engine(backbone, batch_invariant=True), blocks)
    draw = random.Random(10)
    tasks = [random_low_rank(backbone, draw) for _ in images]
    together = engine.forward(images, tasks)
    assert {count for _, count, _ in blocks.captures} == {1}
    for row, task in enumerate(tasks):
        (alone,) = engine.forward(images[row : row + 1], [task])
        assert torch.equal(together[row], alone)


def test_a_bucket_has_few_empty_rows():
    assert BUCKETS[0] == 1
    assert list(BUCKETS) == sorted(set(BUCKETS))
    empty = [min(bucket for bucket in BUCKETS if bucket >= rows) - rows for rows in range(1, BUCKETS[-1] + 1)]
    assert max(empty) == 7
    assert sum(empty) / len(empty) < 3
