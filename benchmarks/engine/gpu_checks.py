"""What `engine.gpu` checks before it measures: answers, bytes, captures, waits."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import conformance as table
from benchmarks.engine.gpu_setting import Setting, moved, tiny_backbone
from benchmarks.engine.mixed_tasks import mixed_task
from serving.engine.engine import Engine
from serving.engine.torch_model import stem
from store.weights.backbones import Backbone
from store.weights.forms import Delta, Forms, TaskWeights

WITHIN = 1e-5  # of a task's largest logit, in float32, which the device adds in another order than the CPU
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""How far logits may lie from the torch path's, as a share of the largest of the batch."""
REPEATS, BATCH = 20, 8
RANKS = (1, 2, 4, 8, 16, 32, 64)


def conformance(setting: Setting) -> dict[str, Any]:
    """Compare each method of the table, in float32 on the device, with stock PEFT and timm on the CPU.

    A row's cells are differences of logits; `right` says whether each is a small enough share of the largest logit.
    """
    backbone = tiny_backbone()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            replace(
                case,
                weights=moved(case.weights, setting.device, torch.float32),
                alone=[logits.to(setting.device) for logits in case.alone],
            )
            for case in table.make_tasks(backbone, Path(folder), images)
        ]
    rows = table.compare(setting.engine(backbone, torch.float32), cases, images, 2)
    served = [row for row in rows if "refused" not in row]
    largest = {row["config"]: max(map(_largest, _logits(cases, row["config"]))) for row in served}
    for row in served:
        row["of the largest logit"] = max(row[column] for column in table.COLUMNS) / largest[row["config"]]
    worst = max(row["of the largest logit"] for row in served)
    return {"right": worst <= WITHIN, "largest share": worst, "goal": WITHIN, "rows": served}


def _logits(cases: Sequence[table.Case], config: str) -> list[Tensor]:
    return [logits for case in cases if case.kind.name == config for logits in case.alone]


def _largest(logits: Tensor) -> float:
    return float(logits.abs().max())


def against_torch_path(setting: Setting) -> dict[str, Any]:
    """Compare batches of every form with the torch path on the same device, in both dtypes."""
    backbone, differences = setting.backbone("base"), {}
    for dtype in ROUNDING:
        engine, other = setting.engine(backbone, dtype), setting.torch_engine(backbone, dtype)
        worst = 0.0
        for start in range(0, 2 * BATCH, BATCH):
            tasks = [moved(mixed_task(backbone, seed), setting.device, dtype) for seed in range(start, start + BATCH)]
            images = images_of(backbone, BATCH, setting)
            worst = max(worst, _share(engine.forward(images, tasks), other.forward(images, tasks)))
        differences[str(dtype)] = {"largest difference": worst, "goal": ROUNDING[dtype]}
    right = all(each["largest difference"] <= each["goal"] for each in differences.values())
    return {"right": right, **differences}


def determinism(setting: Setting) -> dict[str, Any]:
    """Count answers whose bytes change: of the same batch again; with batch invariance, in any batch and order."""
    backbone, dtype, draw = setting.backbone("base"), torch.bfloat16, random.Random(0)
    tasks = [low_rank_task(backbone, draw, setting, dtype) for _ in range(BATCH)]
    images = images_of(backbone, BATCH, setting)
    engine, invariant = setting.engine(backbone, dtype), setting.engine(backbone, dtype, batch_invariant=True)
    first = engine.forward(images, tasks)
    again = sum(_changed(engine.forward(images, tasks), first) for _ in range(REPEATS))
    alone = [invariant.forward(images[row : row + 1], [task])[0] for row, task in enumerate(tasks)]

    def in_any_order(engine: Engine, expected: Sequence[Tensor]) -> int:
        changed = 0
        for _ in range(REPEATS):
            rows = draw.sample(range(BATCH), draw.randint(1, BATCH))
            answers = engine.forward(images[rows], [tasks[row] for row in rows])
            changed += _changed(answers, [expected[row] for row in rows])
        return changed

    moved_bytes = in_any_order(invariant, alone)
    return {
        "right": again == moved_bytes == 0,
        "changed, same batch": again,
        "changed, batch invariance": moved_bytes,
        "changed, other batches without it": in_any_order(engine, first),
    }


def recompiles(setting: Setting) -> dict[str, Any]:
    """Count captures and Triton's compilations while 1,000 tasks of random ranks and depths pass, after warming up."""
    backbone, dtype, draw = setting.backbone("base"), torch.bfloat16, random.Random(1)
    engine, blocks = setting.observed_engine(backbone, dtype)
    compiled: list[str] = []
    if not setting.tiny:
        import triton

        triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(str(told["repr"]))
    start = time.monotonic()
    captured = blocks.warm(BATCH)
    setting.synchronize()
    warming, kernels, images = time.monotonic() - start, len(compiled), images_of(backbone, BATCH, setting)
    for _ in range(setting.tasks // BATCH):
        engine.forward(images, [low_rank_task(backbone, draw, setting, dtype) for _ in range(BATCH)])
    late = len(blocks.captures) - captured
    return {
        "right": late == 0 and len(compiled) == kernels,
        "captures": captured,
        "seconds of all captures": round(warming, 2),
        "kernels compiled": kernels,
        "captures over the tasks": late,
        "kernels compiled over the tasks": len(compiled) - kernels,
        "tasks": setting.tasks // BATCH * BATCH,
    }


def waits(setting: Setting) -> dict[str, Any]:
    """Run all blocks of a batch while torch raises an error wherever the host would wait for the device."""
    backbone, dtype, draw = setting.backbone("base"), torch.bfloat16, random.Random(2)
    engine, blocks = setting.observed_engine(backbone, dtype)
    tasks = [low_rank_task(backbone, draw, setting, dtype).forms for _ in range(BATCH)]
    whole = range(backbone.record.blocks)
    with torch.inference_mode():
        x = stem(engine._model.vit, images_of(backbone, BATCH, setting).to(dtype))
        blocks.run(x, tasks, whole)
        if setting.tiny:
            return {"waits": 0}
        torch.cuda.set_sync_debug_mode("error")
        try:
            blocks.run(x, list(reversed(tasks)), whole)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"waits": 0}


def images_of(backbone: Backbone, count: int, setting: Setting) -> Tensor:
    p = backbone.record.id.preprocessing
    images = torch.randn(count, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    return images.to(setting.device)


def low_rank_task(backbone: Backbone, draw: random.Random, setting: Setting, dtype: torch.dtype) -> TaskWeights:
    """Draw a LoRA of any rank and depth; its numbers are drawn on the device, where that is quick."""
    depth, rank = draw.randint(1, backbone.record.blocks), draw.choice(RANKS)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, device=setting.device, dtype=dtype).mul_(0.02)

    deltas = {
        path: Delta(drawn(1, rank, fan_in), drawn(1, fan_out, rank))
        for path, (fan_out, fan_in) in backbone.record.modules.items()
        if int(path.split(".")[1]) < depth
    }
    return TaskWeights(depth, Forms(deltas), drawn(10, backbone.record.dim), drawn(10), ("class",) * 10)


def _share(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    difference = max(float((own - other).abs().max()) for own, other in zip(ours, theirs, strict=True))
    return difference / max(float(other.abs().max()) for other in theirs)


def _changed(answers: Sequence[Tensor], expected: Sequence[Tensor]) -> int:
    return sum(not torch.equal(ours, theirs) for ours, theirs in zip(answers, expected, strict=True))
