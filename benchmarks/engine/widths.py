"""What pruned widths cost in the engine: one width over full width, and a batch of 16 widths over one width.

All batches are of 16 rows of LoRA tasks at full depth, with a share of the operations of each block: of the first heads
and units, of random ones, or of random heads and groups of 32 units. A batch of 16 widths has a share for each row,
from half to one and a half of that one. It is compared with the mean of 16 batches, each of one of these widths alone
(what mixing costs), and with full width's time multiplied by its share of the operations (its products at full width's
efficiency). Then the same of patches at full width: this share of them over all blocks, as many less from each block to
the next, drawn at random. Ratios are taken in each round; medians, lowest and highest.

    python -m benchmarks.engine.widths
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.support.figures import Goal, conclude, machine, spread, spread_text
from benchmarks.support.models import DTYPES, random_vit_base
from benchmarks.support.options import make_parser, settings_of
from serving.engine.engine import Engine
from sls.width.search import GROUP
from store.accounting.flops import block_flops, saved_by_width
from store.records.backbone import DEFAULT_BACKBONE
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex, mask_of
from store.weights.backbones import Backbone, load_backbone
from store.weights.forms import Delta, Forms, TaskWeights
from store.weights.width import kept_of

ROWS, RANK, CLASSES = 16, 8, 10
FIRST, RANDOM = "one width of first heads and units over full", "one width of random ones over full"
GROUPS = "one width of random groups over full"
PATCHES, PATCHES_IDEAL = "one set of patches over all of them", "one set of patches over its operations"
PATCHES_MIXED = "16 sets of patches over the mean of each alone"
MIXED, IDEAL = "16 widths of first ones over the mean of each alone", "16 widths of first ones over their operations"


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    backbone = random_vit_base() if options.vit_base else load_backbone(DEFAULT_BACKBONE)
    figures: dict[str, dict[str, float]] = {}
    for name in options.dtype:
        for kind, ratios in measure(backbone, DTYPES[name], options).items():
            figures[f"{name}, {kind}"] = spread(ratios)
            print(f"{name}, {kind}: {spread_text(figures[f'{name}, {kind}'])}", flush=True)
    goals = [
        Goal("16 widths / the mean of each alone", _most(figures, MIXED), 1.15, most=True),
        Goal("16 widths / full width times their share of operations", _most(figures, IDEAL), 1.15, most=True),
        Goal("images a second at this share / at full width, the first ones", 1 / _most(figures, FIRST), 1.5),
        Goal("the same of random ones", 1 / _most(figures, RANDOM), 1.5),
        Goal("the same of random groups of 32 units", 1 / _most(figures, GROUPS), 1.5),
        Goal("16 sets of patches / the mean of each alone", _most(figures, PATCHES_MIXED), 1.15, most=True),
        Goal("a set of patches / the time of all times its share", _most(figures, PATCHES_IDEAL), 1.15, most=True),
    ]
    settings = {name: str(value) for name, value in settings_of(options).items()}
    conclude(options.out, {"machine": machine(), "settings": settings, "figures": figures}, goals)


def parse() -> argparse.Namespace:
    parser = make_parser(__doc__, out="widths.json")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--share", type=float, default=0.5, help="of the operations of a block that are kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--vit-base", action="store_true", help="on a random ViT-B/16, not on the packaged backbone")
    return parser.parse_args()


def measure(backbone: Backbone, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the ratios of each round."""
    engine, size = Engine(backbone, dtype=dtype), backbone.record.id.preprocessing
    images = torch.randn(ROWS, 3, size.height, size.width)
    widths = [Width.of(backbone, options.share * (0.5 + row / (ROWS - 1))) for row in range(ROWS)]
    random.Random(0).shuffle(widths)
    one = Width.of(backbone, options.share)
    batches = {
        "full": [task(backbone, dtype, None, seed) for seed in range(ROWS)],
        "one, first": [task(backbone, dtype, one.first(), seed) for seed in range(ROWS)],
        "one, random": [task(backbone, dtype, one.drawn(0), seed) for seed in range(ROWS)],
        "one, groups": [task(backbone, dtype, one.grouped(0), seed) for seed in range(ROWS)],
        "16, groups": [task(backbone, dtype, one.grouped(seed), seed) for seed in range(ROWS)],
        "16, first": [task(backbone, dtype, width.first(), seed) for seed, width in enumerate(widths)],
        "16, random": [task(backbone, dtype, one.drawn(seed), seed) for seed in range(ROWS)],
    }
    for row, width in enumerate(widths):
        batches[f"alone {row}"] = [task(backbone, dtype, width.first(), seed) for seed in range(ROWS)]
    fewer, sets = on_fewer_patches(batches["full"], backbone, options.share)
    batches |= fewer
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
    alone = [statistics.mean(each) for each in zip(*(rounds[f"alone {row}"] for row in range(ROWS)), strict=True)]
    share = statistics.mean(width.share for width in widths)
    sets_alone = [statistics.mean(each) for each in zip(*(rounds[f"set {row}"] for row in range(ROWS)), strict=True)]
    return {
        FIRST: ratio(rounds["one, first"], rounds["full"]),
        RANDOM: ratio(rounds["one, random"], rounds["full"]),
        GROUPS: ratio(rounds["one, groups"], rounds["full"]),
        MIXED: ratio(rounds["16, first"], alone),
        IDEAL: ratio(rounds["16, first"], [share * value for value in rounds["full"]]),
        "16 widths of random ones over one of as many": ratio(rounds["16, random"], rounds["one, random"]),
        "16 widths of random groups over one of as many": ratio(rounds["16, groups"], rounds["one, groups"]),
        PATCHES: ratio(rounds["set 0"], rounds["full"]),
        PATCHES_IDEAL: ratio(rounds["set 0"], [operations(sets[0], backbone) * value for value in rounds["full"]]),
        PATCHES_MIXED: ratio(rounds["16 sets"], sets_alone),
    }


def on_fewer_patches(
    full: list[TaskWeights], backbone: Backbone, share: float
) -> tuple[dict[str, list[TaskWeights]], list[TokenIndex]]:
    """Return batches of the same tasks: of 16 sets each alone, the first of `share`, and of all sets together."""
    vit = backbone.skeleton()
    sets = [patches(vit.patch_embed.grid_size, len(vit.blocks), share, 0)]
    for row in range(1, ROWS):
        sets.append(patches(vit.patch_embed.grid_size, len(vit.blocks), share * (0.5 + row / (ROWS - 1)), row))

    def on(index: TokenIndex, weights: TaskWeights) -> TaskWeights:
        return replace(weights, forms=replace(weights.forms, tokens=index))

    alone = {f"set {row}": [on(index, weights) for weights in full] for row, index in enumerate(sets)}
    return {**alone, "16 sets": [on(index, weights) for index, weights in zip(sets, full, strict=True)]}, sets


def patches(grid: tuple[int, int], blocks: int, share: float, seed: int) -> TokenIndex:
    """Draw a share of the patches over all blocks, as many less from each block to the next."""
    count = grid[0] * grid[1]
    order = random.Random(seed).sample(range(count), count)
    slope = 2 * (1 - share) / max(1, blocks - 1)
    kept = [min(count, max(1, round(count * (1 - slope * block)))) for block in range(blocks)]
    return TokenIndex.of([mask_of(order[:number]) for number in kept], rows=grid[0], columns=grid[1])


def operations(index: TokenIndex, backbone: Backbone) -> float:
    """Return the share of the blocks' operations that a set of patches takes."""
    record = backbone.record
    whole, saved = block_flops(record), saved_by_width(record, None, index)
    assert whole is not None
    assert saved is not None
    return 1 - saved / sum(whole)


def ratio(values: list[float], base: list[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def _most(figures: dict[str, dict[str, float]], kind: str) -> float:
    return max(value["median"] for name, value in figures.items() if name.endswith(kind))


@dataclass(frozen=True)
class Width:
    """How many heads and units each block keeps, and which share of its operations that is."""

    blocks: int
    of_heads: int
    of_units: int
    heads: int
    units: int
    share: float

    @classmethod
    def of(cls, backbone: Backbone, share: float) -> Width:
        """Keep this share of heads, rounded up, and so many units that the share of operations is right."""
        block, dim = backbone.skeleton().blocks[0], backbone.record.dim
        of_heads, of_units = block.attn.num_heads, block.mlp.fc1.out_features
        whole = 4 * dim + 2 * of_units
        heads = min(of_heads, max(1, math.ceil(share * of_heads - 1e-9)))
        attention = 4 * dim * heads / of_heads
        units = min(of_units, max(1, round((share * whole - attention) / 2)))
        return cls(backbone.record.blocks, of_heads, of_units, heads, units, (attention + 2 * units) / whole)

    def first(self) -> WidthIndex:
        pair = (1 << self.heads) - 1, (1 << self.units) - 1
        return WidthIndex.of([pair] * self.blocks, heads=self.of_heads, units=self.of_units)

    def drawn(self, seed: int) -> WidthIndex:
        return self._drawn(seed, 1)

    def grouped(self, seed: int) -> WidthIndex:
        return self._drawn(seed, GROUP)

    def _drawn(self, seed: int, group: int) -> WidthIndex:
        draw = random.Random(seed)

        def mask(total: int, count: int, size: int) -> int:
            chosen = draw.sample(range(total // size), max(1, round(count / size)))
            return mask_of(sorted(one * size + place for one in chosen for place in range(size)))

        pairs = [
            (mask(self.of_heads, self.heads, 1), mask(self.of_units, self.units, group)) for _ in range(self.blocks)
        ]
        return WidthIndex.of(pairs, heads=self.of_heads, units=self.of_units)


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
