"""What `engine.gpu` measures: ratios to one merged task that timm runs, and memory."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine.batches import peft_model
from benchmarks.engine.gpu_checks import images_of
from benchmarks.engine.gpu_setting import Setting
from benchmarks.support.figures import spread, spread_of_ratios
from serving.benchmark.subjects import Run, even_depths, image_flops, interleave, merged_model, random_task
from store.weights.backbones import Backbone
from store.weights.forms import TaskWeights

DTYPE = torch.bfloat16
PEFT_TASKS = 16  # PEFT runs its tasks one after the other in each map: with more, a round takes too long
RESERVE_S = 15.0


def figures(setting: Setting, size: str) -> dict[str, Any]:
    """Measure mixed batches of each number of tasks, all subjects in turn; stop where the time is nearly over."""
    backbone, found = setting.backbone(size), {}
    for count in setting.batches:
        if setting.deadline - time.monotonic() < RESERVE_S and not setting.tiny:
            found[f"{count} tasks"] = "skipped: the time is over"
            continue
        with torch.inference_mode():
            subjects = subjects_of(setting, backbone, count)
            seconds = interleave(subjects, setting.rounds, str(setting.device), _tell)
        found[f"{count} tasks"] = figures_of(setting, backbone, count, seconds)
        del subjects
    return found


def subjects_of(setting: Setting, backbone: Backbone, count: int) -> dict[str, Run]:
    device, images = str(setting.device), images_of(backbone, count, setting)
    low, engine = images.to(DTYPE), setting.engine(backbone, DTYPE)
    blocks = backbone.record.blocks
    full = [random_task(backbone, dtype=DTYPE, device=device, seed=seed) for seed in range(count)]
    uneven = [_cut(task, depth) for task, depth in zip(full, even_depths(count, blocks), strict=True)]
    merged = merged_model(backbone, full[0], dtype=DTYPE, device=device, fused=True)
    left, right = (torch.randn(setting.width, setting.width, device=device, dtype=DTYPE) for _ in range(2))
    subjects: dict[str, Run] = {
        "merged": lambda: merged(low),
        "merged, graph": graph_of(setting, merged, low),
        "mixed": lambda: engine.forward(images, full),
        "mean depth 8": lambda: engine.forward(images, uneven),
        "torch path": torch_path(setting, backbone, images, full),
        "product": lambda: left @ right,
    }
    if count <= PEFT_TASKS:
        names = [str(index) for index in range(count)]
        adapted = peft_model(backbone, full).to(device)
        subjects["PEFT"] = lambda: adapted(low, adapter_names=names)
    return subjects


def torch_path(setting: Setting, backbone: Backbone, images: Tensor, tasks: Sequence[TaskWeights]) -> Run:
    engine = setting.torch_engine(backbone, DTYPE)
    return lambda: engine.forward(images, tasks)


def graph_of(setting: Setting, model: Callable[[Tensor], Tensor], images: Tensor) -> Run:
    """Return the model as a CUDA graph on images of its own, which each run brings in."""
    own = images.clone()
    replay = setting.capture()(lambda: model(own))

    def run() -> None:
        own.copy_(images)
        replay()

    return run


def figures_of(
    setting: Setting, backbone: Backbone, count: int, seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return milliseconds, and each subject over the merged task run eagerly and as a graph; spreads over rounds."""
    product = [2 * setting.width**3 / taken for taken in seconds["product"]]
    flops = count * image_flops(backbone)
    timed = [name for name in seconds if name != "product"]
    return {
        "milliseconds": {name: spread([1e3 * taken for taken in seconds[name]]) for name in timed},
        "over merged": {name: spread_of_ratios(seconds[name], seconds["merged"]) for name in timed},
        "over merged, graph": {name: spread_of_ratios(seconds[name], seconds["merged, graph"]) for name in timed},
        "share of the product's rate": {
            name: spread([flops / taken / rate for taken, rate in zip(seconds[name], product, strict=True)])
            for name in ("merged, graph", "mixed")
        },
        "product, TFLOP/s": round(statistics.median(product) / 1e12, 1),
    }


def compiled(setting: Setting) -> dict[str, Any]:
    """Measure the engine beside the merged task by `torch.compile`, with CUDA graphs, at the least and most tasks."""
    if setting.tiny:
        return {"skipped": "compiling for a CPU takes a C++ compiler and says nothing of a GPU"}
    backbone, found, device = setting.backbone("base"), {}, str(setting.device)
    for count in (setting.batches[0], setting.batches[-1]):
        images = images_of(backbone, count, setting)
        low, engine = images.to(DTYPE), setting.engine(backbone, DTYPE)
        tasks = [random_task(backbone, dtype=DTYPE, device=device, seed=seed) for seed in range(count)]
        merged = merged_model(backbone, tasks[0], dtype=DTYPE, device=device, fused=True)
        quick = torch.compile(merged, mode="reduce-overhead", fullgraph=True, dynamic=False)
        with torch.no_grad():  # as compiled graphs run; inference tensors would compile again
            subjects: dict[str, Run] = {
                "merged, compiled": lambda quick=quick, low=low: quick(low),
                "mixed": lambda engine=engine, images=images, tasks=tasks: engine.forward(images, tasks),
            }
            seconds = interleave(subjects, setting.rounds, device, _tell)
        found[f"{count} tasks"] = {
            "milliseconds": {name: spread([1e3 * each for each in taken]) for name, taken in seconds.items()},
            "over merged, compiled": spread_of_ratios(seconds["mixed"], seconds["merged, compiled"]),
        }
    return found


def memory(setting: Setting) -> dict[str, Any]:
    """Return the bytes that the engine, its captures and its tasks take on the device, and the most at once."""
    if setting.tiny:
        return {"skipped": "a CPU's memory is not measured"}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backbone, count, device = setting.backbone("base"), setting.batches[-1], str(setting.device)
    engine, blocks = setting.observed_engine(backbone, DTYPE)
    with_engine, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    captures = blocks.warm(8)
    tasks = [random_task(backbone, dtype=DTYPE, device=device, seed=seed) for seed in range(count)]
    taken = free - torch.cuda.mem_get_info()[0] - sum(task.nbytes for task in tasks)
    engine.forward(images_of(backbone, count, setting), tasks)
    torch.cuda.synchronize()
    return {
        "engine": with_engine - before,
        f"{captures} captures": taken,
        f"{count} tasks": sum(task.nbytes for task in tasks),
        "most at once": torch.cuda.max_memory_allocated() - before,
    }


def _cut(task: TaskWeights, depth: int) -> TaskWeights:
    """Return the task at a smaller depth, in the same memory."""
    forms = task.forms
    deltas = {path: delta for path, delta in forms.deltas.items() if int(path.split(".")[1]) < depth}
    return TaskWeights(depth, type(forms)(deltas), task.head_weight, task.head_bias, task.labels)


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
