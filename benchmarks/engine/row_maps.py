"""What it costs to give each row of a batch a linear map of its own, by every way that was tried; over the shared map.

The four linear maps of a block, in bfloat16: the shared product alone, then with the rows' low-rank parts as the engine
adds them (rank 8; and ranks 4 to 64 in one batch), with these parts compiled by `torch.compile`, and with whole merged
weights for each task instead, of which a batch has one, two, four or eight rows. All ways take turns in one process.
Prints a table of ratios to the shared product; JSON in benchmarks/results/row_maps.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.support.figures import RESULTS, machine, spread, write
from onetrunk.rendering.tables import to_markdown
from serving.benchmark.subjects import Run, interleave
from serving.engine.adapter_ops import linear
from serving.engine.kernels import Linear
from store.malloc import keep_freed_memory
from store.weights.forms import Delta

DTYPE = torch.bfloat16
RANK = 8
RANKS = (4, 8, 16, 32, 64)
ROWS_OF_A_TASK = (1, 2, 4, 8)
Way = Callable[["Map"], object]


@dataclass(frozen=True)
class Shape:
    """A backbone as far as it matters here: its width, tokens of an image, and rows in a batch."""

    name: str
    dim: int
    tokens: int
    rows: int

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        return (3 * self.dim, self.dim), (self.dim, self.dim), (4 * self.dim, self.dim), (self.dim, 4 * self.dim)


SHAPES = (Shape("embedded", 192, 65, 16), Shape("ViT-B/16", 768, 197, 8))


class Map:
    """A linear map, what goes into it, and what each row may add to it or have in its place."""

    def __init__(self, shape: Shape, fan_out: int, fan_in: int) -> None:
        self.x = torch.randn(shape.rows, shape.tokens, fan_in).to(DTYPE)
        self.shared = packed(fan_out, fan_in)
        self.own = [packed(fan_out, fan_in) for _ in range(shape.rows)]
        self.alike = [delta(fan_out, fan_in, RANK) for _ in range(shape.rows)]
        ranks = sorted(RANKS[row % len(RANKS)] for row in range(shape.rows))
        self.unlike = [delta(fan_out, fan_in, rank) for rank in ranks]
        self.b = torch.cat([each.b.mT for each in self.alike if each.b is not None]).contiguous()


def packed(fan_out: int, fan_in: int) -> Linear:
    module = torch.nn.Linear(fan_in, fan_out).to(DTYPE).requires_grad_(requires_grad=False)
    return Linear.of(module)


def delta(fan_out: int, fan_in: int, rank: int) -> Delta:
    a, b = torch.randn(1, rank, fan_in).mul(0.02), torch.randn(1, fan_out, rank).mul(0.02)
    return Delta(a.to(DTYPE), b.to(DTYPE))


def main() -> None:
    options = parse()
    keep_freed_memory()
    rows = []
    for shape in SHAPES:
        ways = ways_of(shape, compiled=options.compiled)
        with torch.inference_mode():
            seconds = interleave(ways, options.rounds, "cpu", lambda line: print(line, file=sys.stderr))
        for name, taken in seconds.items():
            ratios = spread([s / b for s, b in zip(taken, seconds["shared"], strict=True)])
            rows.append({"backbone": shape.name, "way": name, **ratios})
    print(to_markdown(rows))
    write(options.out, {"machine": machine(), "torch": torch.__version__, "rows": rows}, goals=[])


def ways_of(shape: Shape, *, compiled: bool) -> dict[str, Run]:
    """Return what is timed, by name: all four maps of a block each time."""
    maps = [Map(shape, *each) for each in shape.maps]
    ways: dict[str, Way] = {
        "shared": lambda each: each.shared(each.x),
        f"shared + rank {RANK} a row": lambda each: linear(each.x, each.shared, each.alike),
        "shared + ranks 4 to 64": lambda each: linear(each.x, each.shared, each.unlike),
        **{f"merged weights, {rows} rows a task": merged(rows) for rows in ROWS_OF_A_TASK if rows <= shape.rows},
    }
    if compiled:
        ways[f"shared + rank {RANK} a row, compiled"] = compiled_deltas()
    return {name: on_all(maps, way) for name, way in ways.items()}


def on_all(maps: Sequence[Map], way: Way) -> Run:
    return lambda: [way(each) for each in maps]


def merged(rows: int) -> Way:
    """Run each task's rows through its own weights, into one result."""

    def run(each: Map) -> Tensor:
        starts = range(0, len(each.x), rows)
        return torch.cat([own(each.x[start : start + rows]) for start, own in zip(starts, each.own, strict=False)])

    return run


def compiled_deltas() -> Way:
    """Add B's part in one loop over the result that the compiler writes."""

    def add(y: Tensor, low: Tensor, b: Tensor) -> Tensor:
        total = y.float()
        for index in range(RANK):
            total = total + low[:, :, index : index + 1].float() * b[:, None, index, :].float()
        return y.copy_(total.to(y.dtype))

    quick = torch.compile(add, dynamic=False)

    def run(each: Map) -> object:
        factors = torch.cat([one.a for one in each.alike if one.a is not None])
        return quick(each.shared(each.x), torch.bmm(each.x, factors.mT), each.b)

    return run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compiled", action="store_true", help="torch.compile's way too, which needs a C++ compiler")
    parser.add_argument("--out", type=Path, default=RESULTS / "row_maps.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
