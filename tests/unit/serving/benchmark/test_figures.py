"""The bench measures what it says: the merged task answers as the engine does, and the work is counted right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.oracle import Shop, make_backbone, make_task, open_shop
from support.swin_tasks import make_swin
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import onetrunk.cli.commands.bench as onetrunk_bench
from serving.benchmark.figures import ATTENTIONS, Figure, Plan, Published, bench
from serving.benchmark.subjects import (
    CLASSES,
    even_depths,
    even_tokens,
    even_widths,
    image_flops,
    interleave,
    kept_flops,
    merged_model,
    random_task,
)
from serving.engine.engine import Engine
from store.accounting.flops import block_flops
from store.errors import InvalidSettingError

TINY = Plan(tasks=3, late_tasks=4, rounds=2, width=32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("bench")
    with open_shop(folder) as shop:
        for depth in (2, 4):
            made = make_task(shop.backbone, folder / f"task-{depth}", depth=depth, classes=5, seed=depth)
            shop.store.publish(f"task-{depth}", made.folder, backbone=shop.backbone.record.name, depth=depth)
        yield shop


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_merged_task_that_all_is_measured_against_answers_as_the_engine_does(shop: Shop, attention: str) -> None:
    options = {"dtype": torch.float32, "device": "cpu"}
    task = random_task(shop.backbone, seed=3, **options)
    merged = merged_model(shop.backbone, task, fused=attention == "fused attention", **options)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = merged(images)
    answered = Engine(shop.backbone).forward(images, [task, task])
    assert (torch.stack(answered) - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize("arguments", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 3}], ids=str)
def test_the_operations_of_an_image_are_those_that_torch_counts(tmp_path: Path, arguments: dict[str, object]) -> None:
    backbone = make_backbone(tmp_path, **arguments)
    task = random_task(backbone, dtype=torch.float32, device="cpu", seed=0)
    merged = merged_model(backbone, task, dtype=torch.float32, device="cpu", fused=False)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        merged(torch.randn(1, 3, 32, 32))
    assert image_flops(backbone) + 2 * CLASSES * backbone.record.dim == counted.get_total_flops()


def test_widths_are_even_from_a_third_of_heads_and_units_to_all_of_them(shop: Shop, tmp_path: Path) -> None:
    widths = even_widths(shop.backbone, 3)
    assert widths is not None
    assert [(width.heads_kept[0], width.units_kept[0]) for width in widths] == [(1, 64), (2, 128), (3, 192)]
    assert [kept_flops(shop.backbone, width) for width in widths] == pytest.approx([1 / 3, 2 / 3, 1])
    assert even_widths(make_backbone(tmp_path, scale_attn_norm=True), 3) is None


def test_patches_of_the_last_block_are_even_from_a_third_to_all_of_them(shop: Shop) -> None:
    sets = even_tokens(shop.backbone, 3)
    assert sets is not None
    assert [tokens.patches_kept for tokens in sets] == [(16, 12, 9, 5), (16, 14, 12, 11), (16, 16, 16, 16)]


def test_depths_are_even_from_a_third_of_the_blocks_to_all_of_them() -> None:
    assert even_depths(9, 12) == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert sum(even_depths(8, 12)) == 8 * 8
    assert even_depths(1, 12) == [4]
    assert even_depths(3, 1) == [1, 1, 1]


def test_late_tasks_of_one_image_run_the_blocks_that_their_figure_is_taken_against(shop: Shop) -> None:
    late = [random_task(shop.backbone, dtype=torch.float32, device="cpu", seed=seed, first=2) for seed in range(4)]
    run = Engine(shop.backbone).begin(torch.randn(1, 3, 32, 32), late, [0] * 4)
    assert run.remaining_blocks == 1 + 4 * 3


def test_every_subject_is_run_as_often_as_every_other_and_in_turn() -> None:
    ran: list[str] = []
    told: list[str] = []
    subjects = {name: lambda name=name: ran.append(name) for name in ("a", "b")}
    seconds = interleave(subjects, 3, "cpu", told.append)
    assert ran == ["a", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert told == ["warming up", "warming up", "round 1 of 3", "round 2 of 3", "round 3 of 3"]


def test_a_figure_is_the_median_of_its_ratios_with_their_spread() -> None:
    figure = Figure.of("x", [0.1 * index for index in range(1, 12)], "what")
    assert (figure.median, figure.p10, figure.p90, figure.rounds) == (0.6, 0.2, 1.0, 11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_bench_with_a_store_has_its_tasks_and_one_without_has_the_rest(shop: Shop, dtype: torch.dtype) -> None:
    manifests = [shop.store.resolve(f"task-{depth}").manifest for depth in (2, 4)]
    published = Published(shop.store, manifests)
    found = {f.figure: f for f in bench(shop.backbone, TINY, dtype=dtype, device="cpu", published=published)}
    plain = {f.figure: f for f in bench(shop.backbone, TINY, dtype=dtype, device="cpu")}
    assert list(plain) == [
        "mixed batch",
        "mixed depths",
        "mixed widths",
        "mixed tokens",
        "late tasks",
        "batch invariance",
        "share of peak",
    ]
    assert list(found) == [*plain, "your tasks", "cold load"]
    assert all(0 < f.p10 <= f.median <= f.p90 for f in (*found.values(), *plain.values()))
    assert "2 tasks of the store, depth 3 of 4 on average" in found["your tasks"].what


def test_a_plan_without_a_spread_or_a_batch_is_refused() -> None:
    for wrong in ({"rounds": 1}, {"tasks": 0}):
        with pytest.raises(InvalidSettingError, match="a spread takes at least two rounds"):
            Plan(**wrong)


def test_the_command_prints_the_figures_draws_them_and_says_on_what(shop: Shop, tmp_path: Path) -> None:
    picture = tmp_path / "pictures" / "bench.svg"
    where = ["--store", str(shop.store.root), "--quick", "--rounds", "2", "--tasks", "2", "--dtype", "float32"]
    done = CliRunner().invoke(onetrunk_bench.app, [*where, "--format", "json", "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["figure"] for row in rows][-2:] == ["your tasks", "cold load"]
    assert {(row["backbone"], row["dtype"], row["rounds"]) for row in rows} == {("random/vit", "float32", 2)}
    assert "your tasks" in picture.read_text()
    assert f"drawn: {picture}" in done.stderr


def test_a_plot_that_is_no_picture_is_refused_before_anything_is_measured(shop: Shop) -> None:
    done = CliRunner().invoke(onetrunk_bench.app, ["--store", str(shop.store.root), "--plot", "bench.txt"])
    assert isinstance(done.exception, InvalidSettingError)
    assert "ends in .svg or .png" in str(done.exception)


def test_a_swin_is_measured_against_timm_with_the_same_task_merged(tmp_path: Path) -> None:
    backbone = make_swin(tmp_path)
    task, images = random_task(backbone, dtype=torch.float32, device="cpu", seed=0), torch.randn(2, 3, 36, 36)
    assert len(task.forms.deltas) == len(backbone.record.modules)
    merged = merged_model(backbone, task, dtype=torch.float32, device="cpu", fused=True)
    answered = torch.stack(Engine(backbone).forward(images, [task] * 2))
    torch.testing.assert_close(answered, merged(images), atol=1e-4, rtol=0)
    assert image_flops(backbone) > sum(block_flops(backbone.record))
    early = random_task(backbone, dtype=torch.float32, device="cpu", seed=0, depth=3, first=3)
    assert {path.split(".")[1] for path in early.forms.deltas} == {"2"}
    assert early.head_weight.shape == (10, 32)
