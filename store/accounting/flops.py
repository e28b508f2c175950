"""How many floating point operations each block takes for one image, where the record tells how many tokens it has."""

from __future__ import annotations

import re

from store.records.backbone import BackboneRecord
from store.records.geometry import MERGE
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

WINDOW = re.compile(r"window(\d+)")
CLASS_TOKEN = 1
Side = tuple[int, int]


def tokens_of(record: BackboneRecord) -> int | None:
    """Return patches and class token of an image, None where the record does not tell the size of a patch."""
    grid = record.patch_grid
    return None if grid is None else grid[0] * grid[1] + CLASS_TOKEN


def block_flops(record: BackboneRecord) -> tuple[int, ...] | None:
    """Of each block 2 T Σ(out in) + 4 T² D: two for each multiplication and addition; T tokens, D the block's width.

    A Swin's attention takes 4 T A D, A being the places in a window; tokens that fill up windows count, and the merge
    before a stage counts in its first block. None where the record does not tell the sizes.
    """
    if record.geometry.staged:
        return _staged(record)
    tokens = tokens_of(record)
    if tokens is None:
        return None
    first = sum(out * fan_in for path, (out, fan_in) in record.modules.items() if record.geometry.number(path) == 1)
    return (2 * tokens * first + 4 * tokens**2 * record.dim,) * record.blocks


def mean_flops(record: BackboneRecord) -> int | None:
    """Return what a block takes on average; those of a plain backbone take the same."""
    flops = block_flops(record)
    return None if flops is None else sum(flops) // len(flops)


def saved_by_width(record: BackboneRecord, width: WidthIndex | None, left: TokenIndex | None = None) -> int | None:
    """Return the operations of one image that heads, units and patches which are left out would take; 0 where none is.

    Of a block 2 T Σ(out in) of its maps and 4 T² for each column of attention's, T being the tokens that are there.
    """
    tokens = tokens_of(record)
    index = width or left
    if index is None or tokens is None:
        return None if tokens is None else 0
    maps = {kind: record.modules[f"blocks.0.{kind}"] for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    qkv, proj, fc1, fc2 = (out * fan_in for out, fan_in in maps.values())
    columns, units = maps["attn.proj"][1], maps["mlp.fc1"][0]

    def operations(there: int, columns_kept: int, units_kept: int) -> int:
        attention = (2 * there * (qkv + proj) + 4 * there**2 * columns) * columns_kept // columns
        return attention + 2 * there * (fc1 + fc2) * units_kept // units

    saved = index.blocks * operations(tokens, columns, units)
    for block in range(index.blocks):
        there = tokens if left is None else tokens - left.patches + left.patches_kept[block]
        heads = columns if width is None else columns // width.heads * width.heads_kept[block]
        saved -= operations(there, heads, units if width is None else width.units_kept[block])
    return saved


def _staged(record: BackboneRecord) -> tuple[int, ...] | None:
    grid, window = record.patch_grid, record.id.arguments.get("window_size")
    if window is None:
        found = WINDOW.search(record.id.architecture)
        window = int(found[1]) if found else None
    if grid is None or type(window) is not int or window < 1 or record.id.arguments.get("always_partition"):
        return None
    flops: list[int] = []
    for stage, count in enumerate(record.geometry.stages):
        grid = grid if not stage else (-(-grid[0] // 2), -(-grid[1] // 2))
        flops += [_windowed(record, path, grid, window) for path in record.geometry.paths[len(flops) :][:count]]
        out, fan_in = record.modules.get(f"layers.{stage}.{MERGE}.reduction", (0, 0))
        flops[-count] += 2 * grid[0] * grid[1] * out * fan_in
    return tuple(flops)


def _windowed(record: BackboneRecord, path: str, grid: Side, window: int) -> int:
    """Count a block that attends within windows: whole ones, of which the last may reach beyond the grid."""
    sides = [min(window, side) for side in grid]
    filled = -(-grid[0] // sides[0]) * sides[0] * (-(-grid[1] // sides[1]) * sides[1])
    sizes = {kind: record.modules[f"{path}.{kind}"] for kind in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    qkv, proj, fc1, fc2 = (out * fan_in for out, fan_in in sizes.values())
    scores = 2 * sides[0] * sides[1] * sizes["attn.proj"][1]
    return 2 * filled * (qkv + proj + scores) + 2 * grid[0] * grid[1] * (fc1 + fc2)
