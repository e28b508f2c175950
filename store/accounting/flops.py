"""How many floating point operations a block takes for one image, where the record tells how many tokens it has."""

from __future__ import annotations

import re

from store.adapters.methods.spec import block_number
from store.records.backbone import BackboneRecord
from store.records.width import WidthIndex

PATCH = re.compile(r"patch(\d+)")
CLASS_TOKEN = 1


def tokens_of(record: BackboneRecord) -> int | None:
    """Return patches and class token of an image, None where the record does not tell the size of a patch."""
    side = record.id.arguments.get("patch_size")
    if side is None:
        found = PATCH.search(record.id.architecture)
        side = int(found[1]) if found else None
    if type(side) is not int or side < 1:
        return None
    preprocessing = record.id.preprocessing
    return (preprocessing.height // side) * (preprocessing.width // side) + CLASS_TOKEN


def block_flops(record: BackboneRecord) -> int | None:
    """2 T Σ(out in) + 4 T² D: two for each multiplication and addition; T tokens, D the width of the block."""
    tokens = tokens_of(record)
    if tokens is None:
        return None
    first = sum(out * fan_in for path, (out, fan_in) in record.modules.items() if block_number(path) == 1)
    return 2 * tokens * first + 4 * tokens**2 * record.dim


def saved_by_width(record: BackboneRecord, width: WidthIndex | None) -> int | None:
    """Return the operations of one image that the heads and units which are left out would take; 0 at full width."""
    tokens = tokens_of(record)
    if width is None or tokens is None:
        return None if tokens is None else 0
    heads = width.blocks * width.heads - sum(width.heads_kept)
    units = width.blocks * width.units - sum(width.units_kept)
    size = record.modules["blocks.0.attn.proj"][1] // width.heads
    return heads * size * (8 * tokens * record.dim + 4 * tokens**2) + units * 4 * tokens * record.dim
