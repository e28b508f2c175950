"""What pruned widths cost in the engine: one width over full width, and a batch of 16 widths over one width.

All batches are of 16 rows of LoRA tasks at full depth, with a share of the heads and units of each block: the first
ones (a view of the weights) or random ones (gathered). A batch of 16 widths has as many operations as that of one
width, so their ratio is what mixing costs. Ratios are taken in each round; medians, lowest and highest.

    python -m benchmarks.engine.widths
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.models import DTYPES, random_vit_base
from benchmarks.support.options import make_parser, settings_of
from serving.engine.engine import Engine
from store.records.backbone import DEFAULT_BACKBONE
from store.records.width import WidthIndex, mask_of
from store.weights.backbones import Backbone, load_backbone
from store.weights.forms import Delta, Forms, TaskWeights
from store.weights.width import kept_of

ROWS, RANK, CLASSES = 16, 8, 10


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    backbone = random_vit_base() if options.vit_base else load_backbone(DEFAULT_BACKBONE)
    figures: dict[str, dict[str, float]] = {}
    for name in options.dtype:
        for kind, ratios in measure(backbone, DTYPES[name], options).items():
            figures[f"{name}, {kind}"] = spread(ratios)
            print(f"{name}, {kind}: {spread_text(figures[f'{name}, {kind}'])}", flush=True)
    mixed = [value["median"] for name, value in figures.items() if "16 widths" in name]
    fast = [value["median"] for name, value in figures.items() if "over full" in name]
    goals = [
        Goal("a batch of 16 widths / one width of as many operations", max(mixed), 1.15, most=True),
        Goal("images a second at this share / at full width", 1 / max(fast), 1.5),
    ]
    settings = {name: str(value) for name, value in settings_of(options).items()}
    conclude(options.out, {"machine": machine(), "settings": settings, "figures": figures}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="widths.json")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--share", type=float, default=0.5, help="of heads and units that are kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vit-base", action="store_true", help="on a random ViT-B/16, not on the packaged backbone")
    return parser.parse_args()


def measure(backbone: Backbone, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the ratios of each round: of one width over full width, of 16 widths over one."""
    engine, size = Engine(backbone, dtype=dtype), backbone.record.id.preprocessing
    images = torch.randn(ROWS, 3, size.height, size.width)
    batches = {
        "full": [task(backbone, dtype, None, seed) for seed in range(ROWS)],
        "one, first": [task(backbone, dtype, width(backbone, options.share, None), seed) for seed in range(ROWS)],
        "one, random": [task(backbone, dtype, width(backbone, options.share, 0), seed) for seed in range(ROWS)],
        "16, random": [task(backbone, dtype, width(backbone, options.share, seed), seed) for seed in range(ROWS)],
    }
    prepared = {name: [engine.prepare(weights) for weights in tasks] for name, tasks in batches.items()}
    runs: dict[str, Callable[[], object]] = {
        name: lambda tasks=tasks: engine.forward(images, tasks)  # type: ignore[misc]
        for name, tasks in prepared.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    rounds = {name: values[1:] for name, values in seconds.items()}
    print({name: f"{1000 * statistics.median(values):.1f} ms" for name, values in rounds.items()}, flush=True)
    return {
        "one width of first heads and units over full": ratio(rounds["one, first"], rounds["full"]),
        "one width of random ones over full": ratio(rounds["one, random"], rounds["full"]),
        "16 widths of random ones over one of as many": ratio(rounds["16, random"], rounds["one, random"]),
    }


def ratio(values: list[float], base: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def width(backbone: Backbone, share: float, seed: int | None) -> WidthIndex:
    """Keep the share of heads, rounded up, and of units in each block: the first ones, or drawn ones."""
    block = backbone.skeleton().blocks[0]
    totals = block.attn.num_heads, block.mlp.fc1.out_features
    counts = [max(1, -int(-share * total // 1)) for total in totals]
    draw = random.Random(seed)

    def mask(total: int, count: int) -> int:
        return (1 << count) - 1 if seed is None else mask_of(sorted(draw.sample(range(total), count)))

    pairs = [tuple(map(mask, totals, counts)) for _ in range(backbone.record.blocks)]
    return WidthIndex.of([(heads, units) for heads, units in pairs], heads=totals[0], units=totals[1])


def task(backbone: Backbone, dtype: torch.dtype, index: WidthIndex | None, seed: int) -> TaskWeights:
    """Draw a LoRA of rank 8 on every linear map, at the shape that the width leaves."""
    draw = torch.Generator().manual_seed(seed)
    shapes = backbone.narrow(index).record.modules

    def some(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=draw) * 0.02).to(dtype)

    deltas = {path: Delta(some(1, RANK, fan_in), some(1, out, RANK)) for path, (out, fan_in) in shapes.items()}
    head = some(CLASSES, backbone.record.dim), some(CLASSES)
    weights = TaskWeights(backbone.record.blocks, Forms(deltas), *head, ("class",) * CLASSES)
    return replace(weights, forms=replace(weights.forms, kept=kept_of(index)))


if __name__ == "__main__":
    main()
