"""What is measured against each other: tasks with random weights, and one task that timm runs merged."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from timm.models.swin_transformer import SwinTransformer

from store.accounting.flops import block_flops
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.weights.backbones import Backbone
from store.weights.forms import Delta, Forms, TaskWeights
from store.weights.supported import TimmModel
from store.weights.trunk import blocks_of
from store.weights.width import kept_of, widths_of

RANK, CLASSES = 8, 10
WARM_UP = 2  # rounds that do not count: the first ones allocate and choose kernels
Run = Callable[[], object]


def random_task(
    backbone: Backbone,
    *,
    dtype: torch.dtype,
    device: str,
    seed: int,
    depth: int | None = None,
    first: int = 1,
    width: WidthIndex | None = None,
    tokens: TokenIndex | None = None,
) -> TaskWeights:
    """Draw a LoRA of rank 8 on every linear map of blocks first..depth, all by default, and a head of ten classes.

    With a width the maps have the shapes that it leaves, with tokens the blocks leave out patches.
    """
    generator = torch.Generator().manual_seed(seed)
    depth, geometry = backbone.record.blocks if depth is None else depth, backbone.record.geometry
    deltas = {
        geometry.flat(path): Delta(
            torch.randn(1, RANK, fan_in, generator=generator).mul(0.02).to(device, dtype),
            torch.randn(1, fan_out, RANK, generator=generator).mul(0.02).to(device, dtype),
        )
        for path, (fan_out, fan_in) in backbone.narrow(width).record.modules.items()
        if first <= geometry.number(path) <= depth
    }
    head = torch.randn(CLASSES, backbone.record.width_at(depth), generator=generator).mul(0.05).to(device, dtype)
    forms = Forms(deltas, kept=kept_of(width), tokens=tokens)
    return TaskWeights(depth, forms, head, torch.zeros(CLASSES, device=device, dtype=dtype), ("class",) * CLASSES)


def even_depths(count: int, blocks: int) -> list[int]:
    """Return as many depths at equal distances from a third of the blocks to all: of 12, from 4 to 12."""
    lowest = max(1, round(blocks / 3))
    return [round(lowest + (blocks - lowest) * index / max(1, count - 1)) for index in range(count)]


def even_widths(backbone: Backbone, count: int) -> list[WidthIndex] | None:
    """Return as many widths of first heads and units, at equal distances from a third to all of them.

    None where the backbone's blocks have to keep their full width.
    """
    if (totals := widths_of(backbone.skeleton())) is None:
        return None
    heads, units = totals
    shares = [(1 + 2 * index / max(1, count - 1)) / 3 for index in range(count)]
    kept = [(max(1, round(share * heads)), max(1, round(share * units))) for share in shares]
    masks = [((1 << first) - 1, (1 << second) - 1) for first, second in kept]
    return [WidthIndex.of([mask] * backbone.record.blocks, heads=heads, units=units) for mask in masks]


def even_tokens(backbone: Backbone, count: int) -> list[TokenIndex] | None:
    """Return as many token indexes, whose last blocks keep a third of the patches to all of them, at equal distances.

    From the first block, which keeps all, as many less from each to the next. None for a Swin.
    """
    vit, blocks = backbone.skeleton(), backbone.record.blocks
    if isinstance(vit, SwinTransformer):
        return None
    rows, columns = vit.patch_embed.grid_size
    indexes = []
    for index in range(count):
        left_out = (2 - 2 * index / max(1, count - 1)) / 3 / max(1, blocks - 1)
        kept = [max(1, round(rows * columns * (1 - left_out * block))) for block in range(blocks)]
        indexes.append(TokenIndex.of([(1 << first) - 1 for first in kept], rows=rows, columns=columns))
    return indexes


def kept_flops(backbone: Backbone, width: WidthIndex) -> float:
    """Return the share of the operations of the linear maps that is left."""
    kept, whole = (
        sum(out * fan_in for out, fan_in in b.record.modules.values()) for b in (backbone.narrow(width), backbone)
    )
    return kept / whole


def merged_model(backbone: Backbone, task: TaskWeights, *, dtype: torch.dtype, device: str, fused: bool) -> TimmModel:
    """Build timm's model with the task's deltas added to its weights and the task's head."""
    model = backbone.build(classes=CLASSES, dtype=dtype, device=device)
    for path, delta in task.forms.deltas.items():
        if delta.a is not None and delta.b is not None:
            model.get_submodule(backbone.record.geometry.timm(path)).weight.data += delta.b[0] @ delta.a[0]
    head = model.head.fc if isinstance(model, SwinTransformer) else model.head
    head.weight.data.copy_(task.head_weight)
    head.bias.data.copy_(task.head_bias)
    for _, block in blocks_of(model):
        block.attn.fused_attn = fused
    return model


def image_flops(backbone: Backbone) -> float:
    """Floating-point operations of the backbone's matrix products for one image, two for each multiplication."""
    record, tensors = backbone.record, backbone.tensors
    patch = tensors["patch_embed.proj.weight"]
    patches = (record.id.preprocessing.height // patch.shape[2]) * (record.id.preprocessing.width // patch.shape[3])
    if record.geometry.staged:
        return float(sum(block_flops(record) or ()) + 2 * patches * patch.numel())
    tokens = patches + sum(tensors[name].shape[1] for name in ("cls_token", "reg_token") if name in tensors)
    linear = sum(fan_in * fan_out for fan_out, fan_in in record.modules.values())
    attention = 2 * tokens * record.dim * record.blocks
    return float(2 * (tokens * (linear + attention) + patches * patch.numel()))


def interleave(
    subjects: Mapping[str, Run], rounds: int, device: str, report: Callable[[str], None]
) -> dict[str, list[float]]:
    """Time every subject once a round, in turn, so that other load on the machine affects all; seconds by round."""
    on_gpu = torch.device(device).type == "cuda"
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for index in range(rounds + WARM_UP):
        report(f"round {index + 1 - WARM_UP} of {rounds}" if index >= WARM_UP else "warming up")
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            if on_gpu:
                torch.cuda.synchronize(device)
            if index >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def fastest(seconds: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Return the subject with the least median."""
    return min(names, key=lambda name: statistics.median(seconds[name]))
