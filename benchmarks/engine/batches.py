"""What the engine costs, in ratios to one merged task that timm runs with the faster of its attention settings.

Interleaved in one process, round by round: the merged task; mixed batches of distinct LoRA tasks, at full depth and at
depths 4 to 12; batches drawn from 64 tasks of mixed methods, ranks and heads; PEFT's own `adapter_names`; timm's blocks
run by hand with stacked factors; the engine row by row (batch invariance); many tasks of one image; and a product of
two large matrices. Prints each figure beside its goal; JSON, with the spread, in benchmarks/results/engine.json.

    python -m benchmarks.engine.batches
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import peft
import torch
from torch import Tensor, nn

from benchmarks.engine.mixed_tasks import mixed_task
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.models import random_vit_base
from benchmarks.support.options import make_parser
from serving.benchmark.figures import Figure, Plan, figures_of, merged_task, over, share_of_peak, subjects_of
from serving.benchmark.subjects import Run, interleave, random_task
from serving.engine.engine import Engine
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.forms import TaskWeights

STREAM = 64
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Goals:
    """What a backbone had to reach: ratios to one merged task, at most; the share of the product's rate, at least."""

    mixed: float
    stream: float | None
    depths: float
    peak: float


@dataclass(frozen=True)
class Setting:
    name: str
    backbone: Backbone
    tasks: int
    goals: Goals


def main() -> None:
    options = parse()
    keep_freed_memory()
    settings = [Setting("embedded", load_backbone(DEFAULT_BACKBONE), 16, Goals(1.03, None, 0.71, 0.60))]
    if not options.embedded:
        settings.append(Setting("ViT-B/16", random_vit_base(), 8, Goals(1.02, 1.05, 0.69, 0.85)))
    figures_by_backbone, goals = {}, []
    for setting in settings:
        plan = Plan(tasks=setting.tasks, rounds=options.rounds)
        measured = figures(setting, plan, measure(setting, plan))
        figures_by_backbone[setting.name] = [asdict(figure) for figure in measured]
        goals += goals_of(setting, {figure.figure: figure for figure in measured})
        for figure in measured:
            print(f"{setting.name:<9} {figure.figure:<32} {figure.median:.3f} [{figure.p10:.3f}, {figure.p90:.3f}]")
    report = {"machine": machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    conclude(options.out, {**report, "figures": figures_by_backbone}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="engine.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--embedded", action="store_true", help="leave out ViT-B/16")
    return parser.parse_args()


@torch.inference_mode()
def measure(setting: Setting, plan: Plan) -> dict[str, list[float]]:
    """Return the seconds of every subject, round by round."""
    backbone, count = setting.backbone, setting.tasks
    p = backbone.record.id.preprocessing
    images = torch.randn(count, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    low, engine = images.to(DTYPE), Engine(backbone, dtype=DTYPE)
    tasks = [random_task(backbone, dtype=DTYPE, device="cpu", seed=seed) for seed in range(count)]
    stream, draw = [mixed_task(backbone, seed) for seed in range(STREAM)], random.Random(0)
    names, plain, mixed = [str(index) for index in range(count)], PlainRun(backbone), peft_model(backbone, tasks)
    subjects: dict[str, Run] = {
        **subjects_of(backbone, engine, images, plan),
        "stream": lambda: engine.forward(images, draw.sample(stream, count)),
        "PEFT": lambda: mixed(low, adapter_names=names),
        "plain walk": lambda: plain(low, tasks),
    }
    return interleave(subjects, plan.rounds, "cpu", lambda line: print(f"{setting.name}: {line}", file=sys.stderr))


def figures(setting: Setting, plan: Plan, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return what `onetrunk bench` shows, and what is compared with it here."""
    backbone, (merged, against) = setting.backbone, merged_task(seconds)

    def against_merged(name: str, what: str) -> Figure:
        return Figure.of(name, over(seconds, name, merged), f"{what}, {against}")

    return [
        *figures_of(backbone, plan, seconds),
        share_of_peak("share of peak, merged", backbone, plan, seconds, merged, whose="the merged task's"),
        against_merged("stream", f"{setting.tasks} of {STREAM} tasks, methods and heads mixed"),
        against_merged("PEFT", "the same tasks through adapter_names"),
        against_merged("plain walk", "timm's blocks by hand, stacked factors"),
    ]


def goals_of(setting: Setting, measured: Mapping[str, Figure]) -> list[Goal]:
    bound, name = setting.goals, setting.name
    bounds = {
        "mixed batch": bound.mixed, "stream": bound.stream, "mixed depths": bound.depths, "late tasks": 1.10,
    }  # fmt: skip
    goals = [
        Goal(f"{name}: {figure}", measured[figure].median, most, most=True)
        for figure, most in bounds.items()
        if most is not None
    ]
    return [*goals, Goal(f"{name}: share of peak", measured["share of peak"].median, bound.peak)]


def peft_model(backbone: Backbone, tasks: Sequence[TaskWeights]) -> Callable[..., Tensor]:
    """Build PEFT's own mixed batch of the tasks, which takes one head for all."""
    base = backbone.build(classes=len(tasks[0].head_bias), dtype=DTYPE)
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=list(tasks[0].forms.deltas))
    model = peft.get_peft_model(base, config, adapter_name="0", autocast_adapter_dtype=False)
    for index in range(1, len(tasks)):
        model.add_adapter(str(index), config, autocast_adapter_dtype=False)
    for index, task in enumerate(tasks):
        for path, delta in task.forms.deltas.items():
            layer = model.base_model.model.get_submodule(path)
            assert delta.a is not None
            assert delta.b is not None
            layer.lora_A[str(index)].weight.data.copy_(delta.a[0])
            layer.lora_B[str(index)].weight.data.copy_(delta.b[0])
    whole: Callable[..., Tensor] = model.eval()
    return whole


class PlainRun:
    """The straightforward engine: timm's blocks run by hand, factors stacked, `baddbmm_`."""

    def __init__(self, backbone: Backbone) -> None:
        self.vit = backbone.build(dtype=DTYPE)

    def __call__(self, images: Tensor, tasks: Sequence[TaskWeights]) -> Tensor:
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        for index, block in enumerate(self.vit.blocks):

            def adapted(linear: nn.Linear, x: Tensor, name: str, index: int = index) -> Tensor:
                deltas = [task.forms.deltas[f"blocks.{index}.{name}"] for task in tasks]
                a, b = torch.cat([d.a for d in deltas]), torch.cat([d.b for d in deltas])  # type: ignore[misc]
                return linear(x).baddbmm_(torch.bmm(x, a.mT), b.mT)

            attn, mlp, normed = block.attn, block.mlp, block.norm1(x)
            n, tokens, _ = x.shape
            qkv = adapted(attn.qkv, normed, "attn.qkv").view(n, tokens, 3, attn.num_heads, attn.head_dim)
            out = nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
            x = x + adapted(attn.proj, out.transpose(1, 2).reshape(n, tokens, -1), "attn.proj")
            hidden = mlp.act(adapted(mlp.fc1, block.norm2(x), "mlp.fc1"))
            x = x + adapted(mlp.fc2, hidden, "mlp.fc2")
        feature = self.vit.norm(x)[:, 0]
        return torch.stack([task.head_weight @ row for task, row in zip(tasks, feature, strict=True)])


if __name__ == "__main__":
    main()
