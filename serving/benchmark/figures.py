"""What mixed tasks cost on this machine, as ratios to one merged task that timm runs; all measured in turn."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from serving.benchmark.subjects import (
    RANK,
    Run,
    even_depths,
    even_tokens,
    even_widths,
    fastest,
    image_flops,
    interleave,
    kept_flops,
    merged_model,
    random_task,
)
from serving.engine.engine import Engine
from serving.engine.row_plan import EngineTask
from store.accounting.flops import block_flops
from store.errors import InvalidSettingError
from store.records.manifest import Manifest
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.registry.read_only_store import ReadOnlyStore
from store.weights.backbones import Backbone
from store.weights.load_task import load_prepared

ATTENTIONS = ("explicit attention", "fused attention")
LATE_BLOCKS = 3  # how many blocks, the last ones, late tasks adapt


@dataclass(frozen=True)
class Plan:
    """How much is measured: tasks in a mixed batch, late tasks of one image, rounds, and the width of the product."""

    tasks: int = 8
    late_tasks: int = 32
    rounds: int = 15
    width: int = 2048

    def __post_init__(self) -> None:
        if min(self.tasks, self.late_tasks, self.width) < 1 or self.rounds < 2:
            raise InvalidSettingError(f"{self}: a spread takes at least two rounds, and a batch at least one task")


QUICK = Plan(tasks=4, late_tasks=8, rounds=5, width=1024)


@dataclass(frozen=True)
class Figure:
    """A ratio taken in every round: its median, and its 10th and 90th percentile."""

    figure: str
    median: float
    p10: float
    p90: float
    rounds: int
    what: str

    @classmethod
    def of(cls, figure: str, ratios: Sequence[float], what: str) -> Figure:
        deciles = statistics.quantiles(ratios, n=10, method="inclusive")
        median, p10, p90 = (round(value, 4) for value in (statistics.median(ratios), deciles[0], deciles[-1]))
        return cls(figure, median, p10, p90, len(ratios), what)


@dataclass(frozen=True)
class Published:
    """Versions of a store that use the backbone, by which the cost of its own tasks is measured."""

    store: ReadOnlyStore
    manifests: Sequence[Manifest]


@torch.inference_mode()
def bench(
    backbone: Backbone,
    plan: Plan,
    *,
    dtype: torch.dtype,
    device: str,
    published: Published | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Figure]:
    """Measure every figure; `report` is called with the progress.

    One merged task is the backbone with a task's deltas added to its weights, run by timm with the faster of its two
    attention settings. All tasks but the published ones have random weights, on which speed does not depend.
    """
    report("building the models")
    p = backbone.record.id.preprocessing
    images = torch.randn(plan.tasks, 3, p.height, p.width, generator=torch.Generator().manual_seed(0)).to(device)
    engine = Engine(backbone, dtype=dtype, device=device)
    subjects = subjects_of(backbone, engine, images, plan)
    if published is None:
        return figures_of(backbone, plan, interleave(subjects, plan.rounds, device, report))
    subjects |= _published(backbone, engine, images, published)
    seconds = interleave(subjects, plan.rounds, device, report)
    return [*figures_of(backbone, plan, seconds), *_published_figures(backbone, plan, seconds, published)]


def subjects_of(backbone: Backbone, engine: Engine, images: torch.Tensor, plan: Plan) -> dict[str, Run]:
    """Return what is timed, by name, for the ratios of `figures_of`."""
    return {**_merged(backbone, engine, images), **_mixed(backbone, engine, images, plan)}


def _merged(backbone: Backbone, engine: Engine, images: torch.Tensor) -> dict[str, Run]:
    task = random_task(backbone, dtype=engine.dtype, device=str(engine.device), seed=0)
    low = images.to(engine.dtype)

    def run(name: str) -> Run:
        fused = name == "fused attention"
        model = merged_model(backbone, task, dtype=engine.dtype, device=str(engine.device), fused=fused)
        return lambda: model(low)

    return {name: run(name) for name in ATTENTIONS}


def _mixed(backbone: Backbone, engine: Engine, images: torch.Tensor, plan: Plan) -> dict[str, Run]:
    blocks, device = backbone.record.blocks, str(engine.device)

    def task(
        seed: int,
        *,
        depth: int = blocks,
        first: int = 1,
        width: WidthIndex | None = None,
        tokens: TokenIndex | None = None,
    ) -> EngineTask:
        drawn = partial(random_task, backbone, dtype=engine.dtype, device=device, seed=seed)
        return engine.prepare(drawn(depth=depth, first=first, width=width, tokens=tokens))

    full = [task(seed) for seed in range(plan.tasks)]
    uneven = [task(seed, depth=depth) for seed, depth in enumerate(even_depths(plan.tasks, blocks))]
    late = [task(seed, first=blocks - late_blocks(blocks) + 1) for seed in range(plan.late_tasks)]
    invariant, alike = engine, full  # the kernel's bytes never depend on the batch
    if engine.kernel.name is None:
        invariant = Engine(backbone, dtype=engine.dtype, device=device, batch_invariant=True)
        alike = [
            invariant.prepare(random_task(backbone, dtype=engine.dtype, device=device, seed=seed))
            for seed in range(plan.tasks)
        ]
    widths = even_widths(backbone, plan.tasks) or []
    narrow = [task(seed, width=width) for seed, width in enumerate(widths)]
    of_widths: dict[str, Run] = {"widths": lambda: engine.forward(images, narrow)} if narrow else {}
    short = [task(seed, tokens=tokens) for seed, tokens in enumerate(even_tokens(backbone, plan.tasks) or [])]
    of_widths |= {"tokens": lambda: engine.forward(images, short)} if short else {}
    left, right = (torch.randn(plan.width, plan.width, device=device, dtype=engine.dtype) for _ in range(2))
    return {
        "mixed": lambda: engine.forward(images, full),
        "uneven": lambda: engine.forward(images, uneven),
        **of_widths,
        "late": lambda: engine.forward(images[:1], late, [0] * len(late)),
        "invariant": lambda: invariant.forward(images, alike),
        "product": lambda: left @ right,
    }


def _published(backbone: Backbone, engine: Engine, images: torch.Tensor, published: Published) -> dict[str, Run]:
    store, manifests = published.store, published.manifests

    def load() -> list[EngineTask]:
        return [
            load_prepared(
                store, manifest, engine.prepare, backbone=backbone.tensors, dtype=engine.dtype, device=engine.device
            )
            for manifest in manifests
        ]

    contents = [store.read(blob) for manifest in manifests for blob in manifest.blobs]
    tasks, shown = load(), images[[index % len(images) for index in range(len(manifests))]]
    return {
        "published": lambda: engine.forward(shown, tasks),
        "load": load,
        "digest": lambda: [hashlib.sha256(data).digest() for data in contents],
    }


def _least_work(backbone: Backbone, late: int, tasks: int) -> float:
    """Return what an image takes for tasks that adapt the last `late` blocks alone, over what it takes for one task."""
    record = backbone.record
    works = (block_flops(record) if record.geometry.staged else None) or (1,) * record.blocks
    return (sum(works[:-late]) + tasks * sum(works[-late:])) / sum(works)


def figures_of(backbone: Backbone, plan: Plan, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return the ratios of the subjects of `subjects_of`; `seconds` are by subject and round."""
    blocks, late = backbone.record.blocks, late_blocks(backbone.record.blocks)
    attention, against = merged_task(seconds)
    floor = _least_work(backbone, late, plan.late_tasks) / plan.tasks
    depth = statistics.fmean(even_depths(plan.tasks, blocks))
    return [
        Figure.of(
            "mixed batch",
            over(seconds, "mixed", attention),
            f"{plan.tasks} tasks, rank {RANK}, full depth, {against}",
        ),
        Figure.of(
            "mixed depths",
            over(seconds, "uneven", attention),
            f"the same, depth {depth:.3g} of {blocks} on average, {against}",
        ),
        *_width_figures(backbone, plan, seconds),
        Figure.of(
            "late tasks",
            over(seconds, "late", attention, floor),
            f"one image, {plan.late_tasks} tasks in the last {late} of {blocks} blocks, against what must run",
        ),
        Figure.of(
            "batch invariance",
            over(seconds, "invariant", "mixed"),
            "the same bytes whatever the batch, against the mixed batch",
        ),
        share_of_peak("share of peak", backbone, plan, seconds, "mixed", whose="the mixed batch's"),
    ]


def _width_figures(backbone: Backbone, plan: Plan, seconds: Mapping[str, Sequence[float]]) -> list[Figure]:
    attention, against = merged_task(seconds)
    figures = []
    if (widths := even_widths(backbone, plan.tasks)) is not None:
        share = statistics.fmean(kept_flops(backbone, width) for width in widths)
        what = f"the same, each with its own first heads and units, {share:.0%} of the products on average, {against}"
        figures.append(Figure.of("mixed widths", over(seconds, "widths", attention), what))
    if (sets := even_tokens(backbone, plan.tasks)) is not None:
        share = statistics.fmean(tokens.share for tokens in sets)
        what = (
            f"the same, each on its own patches, fewer from block to block, {share:.0%} of them on average, {against}"
        )
        figures.append(Figure.of("mixed tokens", over(seconds, "tokens", attention), what))
    return figures


def share_of_peak(
    figure: str, backbone: Backbone, plan: Plan, seconds: Mapping[str, Sequence[float]], subject: str, *, whose: str
) -> Figure:
    """Return a subject's rate over that of a product of two large matrices."""
    flops, product = plan.tasks * image_flops(backbone), 2 * plan.width**3
    ratios = [flops / s / (product / p) for s, p in zip(seconds[subject], seconds["product"], strict=True)]
    what = f"{whose} rate, of that of a product of two {plan.width} x {plan.width} matrices"
    return Figure.of(figure, ratios, what)


def merged_task(seconds: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    """Return which attention is faster for one merged task, and the words of a figure for it."""
    attention = fastest(seconds, ATTENTIONS)
    return attention, f"against one merged task in timm with {attention}"


def over(seconds: Mapping[str, Sequence[float]], name: str, base: str, factor: float = 1.0) -> list[float]:
    """Return the ratio of two subjects in each round, divided by `factor`, the ratio of their work."""
    return [s / b / factor for s, b in zip(seconds[name], seconds[base], strict=True)]


def _published_figures(
    backbone: Backbone, plan: Plan, seconds: Mapping[str, Sequence[float]], published: Published
) -> list[Figure]:
    attention, against = merged_task(seconds)
    depths = [manifest.depth for manifest in published.manifests]
    ms, average = statistics.median(seconds["load"]) * 1e3 / len(depths), statistics.fmean(depths)
    return [
        Figure.of(
            "your tasks",
            over(seconds, "published", attention, len(depths) / plan.tasks),
            f"{len(depths)} tasks of the store, depth {average:.3g} of {backbone.record.blocks} on average, {against}",
        ),
        Figure.of(
            "cold load",
            over(seconds, "load", "digest"),
            f"{ms:.2f} ms a task, verified, against the SHA-256 of its files",
        ),
    ]


def late_blocks(blocks: int) -> int:
    return min(LATE_BLOCKS, blocks)
