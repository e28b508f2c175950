"""How many floating point operations a block takes for one image, where the record tells how many tokens it has."""

from __future__ import annotations

import re

from store.adapters.methods.spec import block_number
from store.records.backbone import BackboneRecord

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
