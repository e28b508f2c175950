"""What a mixed batch of distinct LoRA tasks costs, against one merged task and against PEFT's own mixed batch.

Interleaves, in one process: timm with one task merged in, explicit and fused attention, the faster
taken as 1; PEFT with `adapter_names`; a plain walk; the engine. Prints JSON: the median of the
round-by-round ratios, with the 10th and 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import peft
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from serving.engine import Engine
from store.allocator import keep_freed_memory
from store.backbones import DEFAULT_BACKBONE, Backbone, load_backbone
from store.forms import Delta, Forms, TaskWeights

MODULES = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
CLASSES = 10


@dataclass(frozen=True)
class Setting:
    name: str
    backbone: Backbone
    tasks: int
    rank: int


def random_task(backbone: Backbone, *, rank: int, seed: int) -> TaskWeights:
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        path: Delta(
            torch.randn(1, fan_in, rank, generator=generator).mul(0.02).bfloat16(),
            torch.randn(1, rank, fan_out, generator=generator).mul(0.02).bfloat16(),
        )
        for path, (fan_out, fan_in) in backbone.record.modules.items()
    }
    # One head for all, as PEFT's mixed batch takes no others; about unit logits.
    weight = torch.randn(CLASSES, backbone.record.dim, generator=torch.Generator().manual_seed(0)) / 16
    weight = weight.bfloat16()
    return TaskWeights(backbone.record.blocks, Forms(deltas), weight, torch.zeros(CLASSES).bfloat16(), ())


def merged_model(backbone: Backbone, task: TaskWeights, *, fused: bool) -> VisionTransformer:
    model = backbone.build(classes=CLASSES, dtype=torch.bfloat16)
    for path, delta in task.forms.deltas.items():
        model.get_submodule(path).weight.data += (delta.a[0] @ delta.b[0]).T
    model.head.weight.data.copy_(task.head_weight)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model


def peft_model(backbone: Backbone, tasks: list[TaskWeights], *, fused: bool) -> torch.nn.Module:
    base = backbone.build(classes=CLASSES, dtype=torch.bfloat16)
    base.head.weight.data.copy_(tasks[0].head_weight)
    base.head.bias.data.zero_()
    for block in base.blocks:
        block.attn.fused_attn = fused
    rank = next(iter(tasks[0].forms.deltas.values())).rank
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(tasks[0].forms.deltas))
    model = peft.get_peft_model(base, config, adapter_name="0", autocast_adapter_dtype=False)
    for index in range(1, len(tasks)):
        model.add_adapter(str(index), config, autocast_adapter_dtype=False)
    for index, task in enumerate(tasks):
        for path, delta in task.forms.deltas.items():
            layer = model.base_model.model.get_submodule(path)
            layer.lora_A[str(index)].weight.data.copy_(delta.a[0].T)
            layer.lora_B[str(index)].weight.data.copy_(delta.b[0].T)
    return model.eval()


class PlainWalk:
    """The straightforward engine: timm's block walked by hand, factors stacked, `baddbmm_`, explicit attention."""

    def __init__(self, backbone: Backbone) -> None:
        self.vit = backbone.build(dtype=torch.bfloat16)

    def __call__(self, images: Tensor, tasks: list[TaskWeights]) -> Tensor:
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        for index, block in enumerate(self.vit.blocks):

            def adapted(linear: nn.Linear, x: Tensor, name: str, index: int = index) -> Tensor:
                deltas = [task.forms.deltas[f"blocks.{index}.{name}"] for task in tasks]
                a, b = torch.stack([d.a[0] for d in deltas]), torch.stack([d.b[0] for d in deltas])
                return linear(x).baddbmm_(torch.bmm(x, a), b)

            attn, mlp, normed = block.attn, block.mlp, block.norm1(x)
            n, tokens, _ = x.shape
            qkv = adapted(attn.qkv, normed, "attn.qkv").view(n, tokens, 3, attn.num_heads, attn.head_dim)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            out = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
            x = x + adapted(attn.proj, out.transpose(1, 2).reshape(n, tokens, -1), "attn.proj")
            hidden = mlp.act(adapted(mlp.fc1, block.norm2(x), "mlp.fc1"))
            x = x + adapted(mlp.fc2, hidden, "mlp.fc2")
        feature = self.vit.norm(x)[:, 0]
        return torch.stack([task.head_weight @ row for task, row in zip(tasks, feature, strict=True)])


def measure(setting: Setting, rounds: int) -> dict[str, object]:
    backbone, count = setting.backbone, setting.tasks
    tasks = [random_task(backbone, rank=setting.rank, seed=seed) for seed in range(count)]
    p = backbone.record.id.preprocessing
    images = torch.randn(count, 3, p.height, p.width)
    low = images.bfloat16()
    engine, walk = Engine(backbone, dtype=torch.bfloat16), PlainWalk(backbone)
    merged = {fused: merged_model(backbone, tasks[0], fused=fused) for fused in (False, True)}
    mixed = {fused: peft_model(backbone, tasks, fused=fused) for fused in (False, True)}
    names = [str(index) for index in range(count)]
    subjects: dict[str, Callable[[], object]] = {
        "merged, explicit attention": lambda: merged[False](low),
        "merged, fused attention": lambda: merged[True](low),
        "PEFT adapter_names, explicit attention": lambda: mixed[False](low, adapter_names=names),
        "PEFT adapter_names, fused attention": lambda: mixed[True](low, adapter_names=names),
        "plain walk": lambda: walk(low, tasks),
        "engine": lambda: engine.forward(images, tasks),
    }
    seconds = interleave(subjects, rounds)
    fastest = min(list(subjects)[:2], key=lambda name: statistics.median(seconds[name]))
    with torch.inference_mode():
        apart = (mixed[False](low, adapter_names=names) - torch.stack(engine.forward(images, tasks))).abs().max()
    return {
        "backbone": setting.name,
        "tasks": count,
        "rank": setting.rank,
        "rounds": rounds,
        "one_merged_task": fastest,
        "time_over_one_merged_task": {
            name: spread([t / base for t, base in zip(seconds[name], seconds[fastest], strict=True)])
            for name in subjects
        },
        "largest_logit_difference_from_peft": round(float(apart), 4),
    }


@torch.inference_mode()
def interleave(subjects: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every subject once a round, in turn, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for index in range(rounds + 2):
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            if index >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(ratios: list[float]) -> dict[str, float]:
    deciles = statistics.quantiles(ratios, n=10)
    return {"median": round(statistics.median(ratios), 3), "p10": round(deciles[0], 3), "p90": round(deciles[-1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--skip-vit-b", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mixed_batch.json"))
    options = parser.parse_args()
    keep_freed_memory()
    settings = [Setting(DEFAULT_BACKBONE, load_backbone(DEFAULT_BACKBONE), options.tasks, options.rank)]
    if not options.skip_vit_b:
        settings.append(
            Setting("vit_base_patch16_224", random_vit_base(options.out.parent), options.tasks, options.rank)
        )
    results = []
    for setting in settings:
        print(f"measuring {setting.name}, {options.rounds} rounds", file=sys.stderr)
        results.append(measure(setting, options.rounds))
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def random_vit_base(folder: Path) -> Backbone:
    """ViT-B/16 with random weights: speed does not depend on their values, and no download is needed."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vit_base_random.safetensors"
    save_file(timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(), path)
    backbone = load_backbone("vit_base_patch16_224", weights=path)
    path.unlink()
    return backbone


if __name__ == "__main__":
    main()
