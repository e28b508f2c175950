"""The `pruning_history()` of Torch-Pruning, made on a timm ViT, as a width index; where it is one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from store.adapters.checkpoint import Checkpoint
from store.adapters.regular_file import read_regular
from store.adapters.widths import FC1, FC2, PROJ, QKV
from store.errors import FormatError, UnservedAdapterError
from store.records.backbone import BackboneRecord
from store.records.evidence import PruneIndex
from store.records.manifest import MANIFEST_FORMAT, Card
from store.records.width import WidthIndex, mask_of

LIMIT = 1 << 24  # bytes of a history; one of ViT-L in which half of everything goes has some 800 kB
STEP = re.compile(r"blocks\.(\d+)\.(.+)")
OF_HEADS, OF_UNITS = ((QKV, True), (PROJ, False)), ((FC1, True), (FC2, False))


def read_pruning_history(path: Path, record: BackboneRecord, *, heads: int, depth: int | None = None) -> WidthIndex:
    """Read a history that was saved as JSON: steps of [module, whether its outputs go, places].

    Places count what earlier steps have left. `heads` is how many a block of the backbone has. Raises `FormatError`
    for what is not a history, `UnservedAdapterError` where it changes more than whole heads and MLP units.
    """
    data = read_regular(path, limit=LIMIT)
    try:
        steps = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{path.name} is not JSON ({error}): save it with json.dump(pruner.pruning_history(), file)"
        ) from None
    if not isinstance(steps, list) or not all(map(_is_step, steps)):
        raise FormatError(f"{path.name} is not a list of [module, is_out_channel, places]: save pruning_history()")
    depth = record.blocks if depth is None else depth
    numbers = [_all(record, block, PROJ) for block in range(record.blocks)]
    units = [_all(record, block, FC2) for block in range(record.blocks)]
    for name, is_output, places in steps:
        match = STEP.fullmatch(name)
        if match is not None and int(match[1]) < record.blocks and (match[2], is_output) in (*OF_HEADS, *OF_UNITS):
            block, left = int(match[1]), numbers if (match[2], is_output) in OF_HEADS else units
            left[block] = _without(left[block], places, name, thirds=match[2] == QKV)
        else:
            raise UnservedAdapterError(
                f"{name[:80]!r} of the history changes the width that all blocks share, or is not a map of a block: "
                "prune heads and MLP units alone, the patch embedding, attn.proj and mlp.fc2 among ignored_layers"
            )
    size = len(_all(record, 0, PROJ)) // heads
    masks = [(mask_of(_heads(left, size, block)), mask_of(units[block])) for block, left in enumerate(numbers[:depth])]
    return WidthIndex.of(masks, heads=heads, units=len(_all(record, 0, FC2)))


def with_pruning_history(
    checkpoint: Checkpoint, record: BackboneRecord, path: Path, *, heads: int, depth: int | None = None
) -> Checkpoint:
    """Return the checkpoint with the history's width in its card, whose depth is that of the card or what is given."""
    card = checkpoint.card or Card(record.id.fingerprint, PruneIndex(depth or record.blocks, record.blocks, "given"))
    width = read_pruning_history(path, record, heads=heads, depth=card.prune_index.depth)
    index = replace(card.prune_index, width=width)
    return replace(checkpoint, card=replace(card, prune_index=index, format=MANIFEST_FORMAT))


def _is_step(step: object) -> bool:
    if not isinstance(step, list) or len(step) != 3:
        return False
    name, is_output, places = step
    integers = isinstance(places, list) and all(type(place) is int and place >= 0 for place in places)
    return isinstance(name, str) and isinstance(is_output, bool) and integers


def _all(record: BackboneRecord, block: int, kind: str) -> list[int]:
    return list(range(record.modules[f"blocks.{block}.{kind}"][1]))


def _without(left: list[int], places: list[int], name: str, *, thirds: bool) -> list[int]:
    """Return what stays; of qkv, places of q stand for k and v too."""
    gone = {place % len(left) for place in places} if thirds else set(places)
    if max(gone, default=0) >= len(left):
        raise FormatError(
            f"the history takes place {max(gone)} of {len(left)} in {name[:80]!r}: use it with the backbone it was "
            "made on"
        )
    return [number for place, number in enumerate(left) if place not in gone]


def _heads(numbers: list[int], size: int, block: int) -> list[int]:
    """Return the heads that are left whole; raise where one is left in part."""
    kept = sorted({number // size for number in numbers})
    if len(kept) * size != len(numbers):
        raise UnservedAdapterError(
            f"the history takes parts of heads from block {block + 1}: prune whole heads, with prune_num_heads=True "
            "and prune_head_dims=False"
        )
    return kept
