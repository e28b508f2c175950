"""What the engine costs, in ratios to one merged task that timm runs with the faster of its attention settings.

Interleaved in one process, round by round: the merged task; mixed batches of distinct LoRA tasks, at full depth and at
depths 4 to 12; the same rows without any task; batches drawn from 64 tasks of mixed methods, ranks and heads; PEFT's
`adapter_names`; timm's blocks run by hand with stacked factors; batch invariance; many tasks of one image; a product of
two large matrices; on one core, one image alone, in the engine and merged; and the matrix unit's own rate. Rounds in
which other processes kept the machine busy are flagged and left out where enough others remain. Prints each figure
beside its goal; JSON, with the spread and each round's foreign load, in benchmarks/results/engine.json.

    python -m benchmarks.engine.batches
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import peft
import torch
from torch import Tensor, nn

from benchmarks.engine.mixed_tasks import mixed_task
from benchmarks.support.figures import Goal, conclude, machine
from benchmarks.support.foreign_load import ForeignLoad
from benchmarks.support.models import random_vit_base
from benchmarks.support.options import make_parser
from serving.benchmark.figures import Figure, Plan, figures_of, merged_task, over, share_of_peak, subjects_of
from serving.benchmark.subjects import WARM_UP, Run, image_flops, interleave, merged_model, random_task
from serving.engine.engine import Engine
from serving.kernel.library import load_library
from store.malloc import keep_freed_memory
from store.records.backbone import DEFAULT_BACKBONE
from store.weights.backbones import Backbone, load_backbone
from store.weights.forms import Forms, TaskWeights

STREAM = 64
DTYPE = torch.bfloat16
FOREIGN = 0.1  # cores that other processes keep busy, above which a round is flagged
FEWEST = 3  # rounds that figures need
REGISTER_STEPS = 20_000  # of four tile products: half a millisecond
FLOPS_OF_A_STEP = 4 * 2 * 16 * 16 * 32


@dataclass(frozen=True)
class Goals:
    """What a backbone had to reach: ratios to one merged task, at most; the share of the product's rate, at least."""

    mixed: float
    stream: float
    depths: float
    in_kernel: float
    alone: float
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
    settings = [Setting("embedded", load_backbone(DEFAULT_BACKBONE), 16, Goals(0.28, 0.50, 0.22, 1.15, 0.25, 0.65))]
    if not options.embedded:
        settings.append(Setting("ViT-B/16", random_vit_base(), 8, Goals(0.58, 0.70, 0.42, 1.05, 0.6, 1.1)))
    figures_by_backbone, foreign, goals = {}, {}, []
    for setting in settings:
        plan = Plan(tasks=setting.tasks, rounds=options.rounds)
        seconds, foreign[setting.name] = measure(setting, plan)
        measured = figures(setting, plan, seconds)
        figures_by_backbone[setting.name] = [asdict(figure) for figure in measured]
        goals += goals_of(setting, {figure.figure: figure for figure in measured})
        for figure in measured:
            print(f"{setting.name:<9} {figure.figure:<32} {figure.median:.3f} [{figure.p10:.3f}, {figure.p90:.3f}]")
    report = {"machine": machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    conclude(options.out, {**report, "foreign cores by round": foreign, "figures": figures_by_backbone}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="engine.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--embedded", action="store_true", help="leave out ViT-B/16")
    return parser.parse_args()


@torch.inference_mode()
def measure(setting: Setting, plan: Plan) -> tuple[dict[str, list[float]], list[float]]:
    """Return the seconds of every subject in each round that counts, and the foreign load of every round."""
    backbone, count = setting.backbone, setting.tasks
    p = backbone.record.id.preprocessing
    images = torch.randn(count, 3, p.height, p.width, generator=torch.Generator().manual_seed(0))
    low, engine = images.to(DTYPE), Engine(backbone, dtype=DTYPE)
    tasks = [random_task(backbone, dtype=DTYPE, device="cpu", seed=seed) for seed in range(count)]
    stream, draw = [engine.prepare(mixed_task(backbone, seed)) for seed in range(STREAM)], random.Random(0)
    bare = [engine.prepare(replace(tasks[0], forms=Forms()))] * count
    names, plain, mixed = [str(index) for index in range(count)], PlainRun(backbone), peft_model(backbone, tasks)
    subjects: dict[str, Run] = {
        **subjects_of(backbone, engine, images, plan),
        **one_core(backbone, images[:1], tasks[0]),
        "no tasks": lambda: engine.forward(images, bare),
        "stream": lambda: engine.forward(images, draw.sample(stream, count)),
        "PEFT": lambda: mixed(low, adapter_names=names),
        "plain walk": lambda: plain(low, tasks),
    }
    metered = Metered(setting.name)
    seconds = interleave(subjects, plan.rounds, "cpu", metered)
    metered("done")
    return metered.quiet(seconds), metered.cores[-plan.rounds :]


class Metered:
    """Reports the progress, and meters the foreign load of each round."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._load = ForeignLoad()
        self.cores: list[float] = []

    def __call__(self, line: str) -> None:
        self.cores.append(round(self._load.cores(), 3))
        print(f"{self._name}: {line}", file=sys.stderr)

    def quiet(self, seconds: dict[str, list[float]]) -> dict[str, list[float]]:
        """Leave out the rounds that are flagged, where enough others remain."""
        rounds = self.cores[1 + WARM_UP :]
        kept = [index for index, cores in enumerate(rounds) if cores <= FOREIGN]
        if len(kept) < FEWEST:
            return seconds
        return {name: [values[index] for index in kept] for name, values in seconds.items()}


def one_core(backbone: Backbone, image: Tensor, task: TaskWeights) -> dict[str, Run]:
    """One image alone on one core: in the engine, in timm, and the matrix unit's own rate where the kernel has one."""
    threads, low = torch.get_num_threads(), image.to(DTYPE)
    torch.set_num_threads(1)
    engine = Engine(backbone, dtype=DTYPE)
    prepared = engine.prepare(task)
    torch.set_num_threads(threads)
    models = [merged_model(backbone, task, dtype=DTYPE, device="cpu", fused=fused) for fused in (False, True)]

    def on_one(run: Run) -> Run:
        def alone() -> None:
            torch.set_num_threads(1)
            run()
            torch.set_num_threads(threads)

        return alone

    subjects: dict[str, Run] = {
        "alone": on_one(lambda: engine.forward(image, [prepared])),
        "explicit attention alone": on_one(lambda: models[0](low)),
        "fused attention alone": on_one(lambda: models[1](low)),
    }
    if engine.kernel.library is not None:
        library = load_library(engine.kernel.library)
        if library.onetrunk_peak(1):
            subjects["registers"] = lambda: library.onetrunk_peak(REGISTER_STEPS)
    return subjects


def figures(setting: Setting, plan: Plan, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return what `onetrunk bench` shows, and what is compared with it here."""
    backbone, (merged, against) = setting.backbone, merged_task(seconds)

    def against_merged(name: str, what: str) -> Figure:
        return Figure.of(name, over(seconds, name, merged), f"{what}, {against}")

    return [
        *figures_of(backbone, plan, seconds),
        share_of_peak("share of peak, merged", backbone, plan, seconds, merged, whose="the merged task's"),
        Figure.of(
            "against one merged task in the engine",
            over(seconds, "mixed", "no tasks"),
            "the mixed batch, against the same rows without tasks",
        ),
        Figure.of("one image alone, one core", over(seconds, "alone", f"{merged} alone"), f"{against}, on one core"),
        *share_of_registers(backbone, setting.tasks, seconds),
        against_merged("stream", f"{setting.tasks} of {STREAM} tasks, methods and heads mixed"),
        against_merged("PEFT", "the same tasks through adapter_names"),
        against_merged("plain walk", "timm's blocks by hand, stacked factors"),
    ]


def share_of_registers(backbone: Backbone, count: int, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return the shares of the rate at which the matrix unit multiplies what is in its registers, a core's times cores.

    One image's arithmetic is the time of its products at that rate: what rounds sizes up to tiles is not counted.
    """
    if "registers" not in seconds:
        return []
    flops = image_flops(backbone)
    peaks = [REGISTER_STEPS * FLOPS_OF_A_STEP / s for s in seconds["registers"]]
    cores = torch.get_num_threads()
    shares = [count * flops / s / (peak * cores) for s, peak in zip(seconds["mixed"], peaks, strict=True)]
    alone = [s * peak / flops for s, peak in zip(seconds["alone"], peaks, strict=True)]
    return [
        Figure.of("share of the AMX peak", shares, "the mixed batch's rate, of that of a register loop"),
        Figure.of("one image alone over its arithmetic", alone, "one core, its products at a register loop's rate"),
    ]


def goals_of(setting: Setting, measured: Mapping[str, Figure]) -> list[Goal]:
    bound, name = setting.goals, setting.name
    bounds = {
        "mixed batch": bound.mixed, "stream": bound.stream, "mixed depths": bound.depths, "late tasks": 1.05,
        "against one merged task in the engine": bound.in_kernel, "one image alone, one core": bound.alone,
    }  # fmt: skip
    goals = [Goal(f"{name}: {figure}", measured[figure].median, most, most=True) for figure, most in bounds.items()]
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
