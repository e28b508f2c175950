"""How many floating point operations each block takes for one image, where the record tells how many tokens it has."""

from __future__ import annotations

import re

from store.records.backbone import BackboneRecord
from store.records.geometry import MERGE
from store.records.width import WidthIndex

PATCH, WINDOW = re.compile(r"patch(\d+)"), re.compile(r"window(\d+)")
CLASS_TOKEN = 1
Side = tuple[int, int]


def tokens_of(record: BackboneRecord) -> int | None:
    """Return patches and class token of an image, None where the record does not tell the size of a patch."""
    grid = _grid(record)
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


def saved_by_width(record: BackboneRecord, width: WidthIndex | None) -> int | None:
    """Return the operations of one image that the heads and units which are left out would take; 0 at full width."""
    tokens = tokens_of(record)
    if width is None or tokens is None:
        return None if tokens is None else 0
    heads = width.blocks * width.heads - sum(width.heads_kept)
    units = width.blocks * width.units - sum(width.units_kept)
    size = record.modules["blocks.0.attn.proj"][1] // width.heads
    return heads * size * (8 * tokens * record.dim + 4 * tokens**2) + units * 4 * tokens * record.dim


def _grid(record: BackboneRecord) -> Side | None:
    side = record.id.arguments.get("patch_size")
    if side is None:
        found = PATCH.search(record.id.architecture)
        side = int(found[1]) if found else None
    if type(side) is not int or side < 1:
        return None
    return record.id.preprocessing.height // side, record.id.preprocessing.width // side


def _staged(record: BackboneRecord) -> tuple[int, ...] | None:
    grid, window = _grid(record), record.id.arguments.get("window_size")
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
