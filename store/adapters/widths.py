"""The shapes of a backbone's linear maps once heads and units are gone, and whether width and tokens fit it."""

from __future__ import annotations

from collections.abc import Mapping

from store.adapters.methods.custom import CONVPASS
from store.adapters.methods.spec import block_number
from store.errors import BackboneMismatchError, UnservedAdapterError, UnservedBackboneError
from store.records.backbone import BackboneRecord
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

NO_CONVOLUTION = "Convpass convolves the whole grid of patches, of which some are left out: use another method"
QKV, PROJ, FC1, FC2 = "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"


def require_one_width(record: BackboneRecord) -> None:
    """Raise `UnservedBackboneError` where the stages of the backbone differ in heads and units."""
    if record.geometry.staged:
        raise UnservedBackboneError(
            f"{record.name} is a Swin, whose stages differ in heads and units, which no width index says: cut its depth"
        )


def check_width(width: WidthIndex, record: BackboneRecord, depth: int) -> None:
    """Raise `BackboneMismatchError` unless the index is one of blocks 1..depth of this backbone."""
    require_one_width(record)
    if width.blocks != depth:
        raise BackboneMismatchError(
            f"the width index has {width.blocks} blocks, the task runs {depth}: prune the task again at that depth"
        )
    for path, (out, fan_in) in record.modules.items():
        known = {QKV: (out, 3 * width.heads), FC1: (out, width.units), FC2: (fan_in, width.units)}
        size, part = known.get(kind_of(path), (0, 1))
        if size % part or (kind_of(path) in (FC1, FC2) and size != part):
            raise _mismatch(width, record, f"{path} is {out} x {fan_in}")
    heads = record.id.arguments.get("num_heads", width.heads)
    if heads != width.heads:
        raise _mismatch(width, record, f"it has {heads} heads in a block")


def require_plain_tokens(record: BackboneRecord) -> None:
    """Raise `UnservedBackboneError` where attention needs the whole grid of patches."""
    if record.geometry.staged:
        raise UnservedBackboneError(
            f"{record.name} is a Swin, which attends within windows of the whole grid of patches: cut its depth"
        )


def check_tokens(tokens: TokenIndex | None, record: BackboneRecord, depth: int, *, method: object = None) -> None:
    """Raise `BackboneMismatchError` unless the index is one of blocks 1..depth and of this backbone's patches.

    `method` is what the adapter's config calls it: raises `UnservedAdapterError` where it needs the whole grid.
    """
    if tokens is None:
        return
    require_plain_tokens(record)
    if method == CONVPASS:
        raise UnservedAdapterError(NO_CONVOLUTION)
    if tokens.blocks != depth:
        raise BackboneMismatchError(
            f"the token index has {tokens.blocks} blocks, the task runs {depth}: prune the task again at that depth"
        )
    if record.patch_grid is not None:
        check_grid(tokens, record.patch_grid)


def check_grid(tokens: TokenIndex, grid: tuple[int, int]) -> None:
    """Raise `BackboneMismatchError` unless an image has as many rows and columns of patches."""
    if (tokens.rows, tokens.columns) != grid:
        raise BackboneMismatchError(
            f"the token index is of {tokens.rows} x {tokens.columns} patches, an image has {grid[0]} x {grid[1]} "
            "beside the class token, which always stays: use it with the backbone it was made for"
        )


def narrowed_shapes(record: BackboneRecord, width: WidthIndex) -> Mapping[str, tuple[int, int]]:
    """Return (out, in) of each linear map with the kept heads and units alone; blocks above the index as they are."""
    shapes = dict(record.modules)
    for path, (out, fan_in) in record.modules.items():
        block = block_number(path)
        if block > width.blocks:
            continue
        heads, units = (mask.bit_count() for mask in width.masks[block - 1])
        narrowed = {
            QKV: (out // width.heads * heads, fan_in),
            PROJ: (out, fan_in // width.heads * heads),
            FC1: (units, fan_in),
            FC2: (out, units),
        }
        kind = kind_of(path)
        if kind not in narrowed:
            raise UnservedAdapterError(f"{path} of backbone {record.name} has no width to prune: keep its full width")
        shapes[path] = narrowed[kind]
    return shapes


def kind_of(path: str) -> str:
    """Return what a linear map is in its block: `attn.qkv` of `blocks.3.attn.qkv`."""
    return path.split(".", 2)[-1]


def _mismatch(width: WidthIndex, record: BackboneRecord, reason: str) -> BackboneMismatchError:
    return BackboneMismatchError(
        f"the width index is of {width.heads} heads and {width.units} units a block, and of {record.name} {reason}: "
        "use it with the backbone it was made for"
    )
