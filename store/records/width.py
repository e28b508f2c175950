"""Which attention heads and MLP units of each block a task runs: the width beside the depth."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from store.errors import FormatError

MAX_BLOCKS, MAX_HEADS, MAX_UNITS = 1024, 255, 65_535
PREFIX, BITS, DEFLATE = "prefix", "bits", "deflate"
COUNTS_NBYTES = 3  # of a block in the form "prefix": heads in one byte, units in two
RAW_DEFLATE = -15  # zlib's window without header and checksum: the manifest has a digest


class BlockWidth(NamedTuple):
    """What a block keeps: bit i of a mask stands for head i, or unit i."""

    heads: int
    units: int


@dataclass(frozen=True)
class WidthIndex:
    """The heads and units that blocks 1..blocks keep, of `heads` and `units` in each block of the backbone.

    `kept` is FORM:BASE64, as `of` writes it. "prefix" has how many of the first heads and units each block keeps;
    "bits" a bit for each head, then each unit, of one block after the other; "deflate" these bits, compressed.
    """

    blocks: int
    heads: int
    units: int
    kept: str

    def __post_init__(self) -> None:
        for name, most in (("blocks", MAX_BLOCKS), ("heads", MAX_HEADS), ("units", MAX_UNITS)):
            if not 1 <= getattr(self, name) <= most:
                raise FormatError(f"width index of {getattr(self, name)} {name}: expected 1..{most}")
        for block, (heads, units) in enumerate(self.masks, 1):
            if not heads or not units:
                raise FormatError(
                    f"width index: block {block} keeps no {'unit' if heads else 'head'}: keep at least one of each"
                )

    @classmethod
    def of(cls, masks: Sequence[tuple[int, int]], *, heads: int, units: int) -> WidthIndex:
        """Make the index of (heads, units) bitmasks, block 1 first, in the shortest form."""
        for block, (kept_heads, kept_units) in enumerate(masks, 1):
            for name, mask, most in (("heads", kept_heads, heads), ("units", kept_units, units)):
                if mask < 0 or mask.bit_length() > most:
                    raise FormatError(
                        f"width index: block {block} keeps {name} up to {mask.bit_length()}, the backbone has {most}: "
                        "use the index with the backbone it was made for"
                    )
        return cls(len(masks), heads, units, _shortest(masks, heads, units))

    @cached_property
    def masks(self) -> tuple[BlockWidth, ...]:
        """The bitmasks of each block, block 1 first."""
        form, data = self._form, self._data
        if form == PREFIX:
            rows = [data[at : at + COUNTS_NBYTES] for at in range(0, len(data), COUNTS_NBYTES)]
            counts = [(row[0], int.from_bytes(row[1:], "little")) for row in rows]
            self._check_counts(counts)
            return tuple(BlockWidth((1 << heads) - 1, (1 << units) - 1) for heads, units in counts)
        bits = int.from_bytes(data, "little")
        if bits >> (self.blocks * (self.heads + self.units)):
            raise FormatError(f"width index has units above {self.units} of the last block: publish the task again")
        step, masks = self.heads + self.units, []
        for block in range(self.blocks):
            part = (bits >> (block * step)) & ((1 << step) - 1)
            masks.append(BlockWidth(part & ((1 << self.heads) - 1), part >> self.heads))
        return tuple(masks)

    @property
    def nbytes(self) -> int:
        """The bytes of the masks as they are stored; base64 and the manifest around them are not counted."""
        return len(base64.b64decode(self.kept.partition(":")[2]))

    @property
    def is_prefix(self) -> bool:
        """Whether every block keeps its first heads and units alone."""
        return self._form == PREFIX

    @property
    def heads_kept(self) -> tuple[int, ...]:
        return tuple(mask.heads.bit_count() for mask in self.masks)

    @property
    def units_kept(self) -> tuple[int, ...]:
        return tuple(mask.units.bit_count() for mask in self.masks)

    @property
    def _form(self) -> str:
        return self.kept.partition(":")[0]

    @property
    def _data(self) -> bytes:
        """Return the masks' bytes, of exactly the length that the form asks for."""
        form, _, text = self.kept.partition(":")
        whole = -(-self.blocks * (self.heads + self.units) // 8)
        expected = self.blocks * COUNTS_NBYTES if form == PREFIX else whole
        if form not in (PREFIX, BITS, DEFLATE) or len(text) > 4 * (max(whole, expected) // 3 + 2):
            raise FormatError(f"width index {self.kept[:40]!r} is not valid: expected {PREFIX}, {BITS} or {DEFLATE}")
        try:
            data = base64.b64decode(text, validate=True)
            if form == DEFLATE:
                data = zlib.decompressobj(RAW_DEFLATE).decompress(data, whole + 1)
        except (binascii.Error, zlib.error) as error:
            raise FormatError(f"width index cannot be decoded ({error}): publish the task again") from None
        if len(data) != expected:
            raise FormatError(
                f"width index has {len(data)} bytes, {self.blocks} blocks of {self.heads} heads and {self.units} units "
                f"take {expected}: publish the task again"
            )
        return data

    def _check_counts(self, counts: Sequence[tuple[int, int]]) -> None:
        for block, (heads, units) in enumerate(counts, 1):
            if heads > self.heads or units > self.units:
                raise FormatError(
                    f"width index: block {block} keeps {heads} heads and {units} units, the backbone has {self.heads} "
                    f"and {self.units}: use the index with the backbone it was made for"
                )


def full_width(blocks: int, *, heads: int, units: int) -> WidthIndex:
    return WidthIndex.of([((1 << heads) - 1, (1 << units) - 1)] * blocks, heads=heads, units=units)


def kept_places(mask: int) -> list[int]:
    """Return the places of the bits of a mask, the lowest first."""
    return [place for place, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]


def mask_of(places: Sequence[int]) -> int:
    """Return the mask with these bits."""
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def _shortest(masks: Sequence[tuple[int, int]], heads: int, units: int) -> str:
    if all(mask & (mask + 1) == 0 for pair in masks for mask in pair):
        counts = (bytes([h.bit_count()]) + u.bit_count().to_bytes(2, "little") for h, u in masks)
        return _text(PREFIX, b"".join(counts))
    bits = 0
    for kept_heads, kept_units in reversed(masks):
        bits = (bits << (heads + units)) | (kept_units << heads) | kept_heads
    raw = bits.to_bytes(-(-len(masks) * (heads + units) // 8), "little")
    compressor = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE)
    packed = compressor.compress(raw) + compressor.flush()
    return _text(DEFLATE, packed) if len(packed) < len(raw) else _text(BITS, raw)


def _text(form: str, data: bytes) -> str:
    return f"{form}:{base64.b64encode(data).decode()}"
