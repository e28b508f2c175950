"""Which patches of an image each block of a task runs on: static positions, fewer from block to block."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from store.errors import FormatError
from store.records.width import MAX_BLOCKS, RAW_DEFLATE, kept_places

MAX_PATCHES = 65_536
LEVELS, DEFLATE = "levels", "deflate"


class Step(NamedTuple):
    """What a block leaves out: of the `before` patches that the block before it keeps, these places stay."""

    before: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class TokenIndex:
    """The patches that blocks 1..blocks keep, of `rows` x `columns` in an image; class token and registers always stay.

    What a block keeps, all blocks before it keep: a patch that is taken out does not come back. So one number for each
    patch says everything: how many blocks keep it. `kept` is FORM:BASE64, as `of` writes it: "levels" has these
    numbers, row by row, each in as few bits as the number of blocks takes; "deflate" these bits, compressed.
    """

    blocks: int
    rows: int
    columns: int
    kept: str

    def __post_init__(self) -> None:
        if not 1 <= self.blocks <= MAX_BLOCKS:
            raise FormatError(f"token index of {self.blocks} blocks: expected 1..{MAX_BLOCKS}")
        if min(self.rows, self.columns) < 1 or self.patches > MAX_PATCHES:
            raise FormatError(f"token index of {self.rows} x {self.columns} patches: expected 1..{MAX_PATCHES}")
        if (deepest := max(self.levels)) > self.blocks:
            raise FormatError(f"token index: a patch is kept by {deepest} blocks, of {self.blocks}: prune again")
        if deepest < self.blocks:
            raise FormatError(f"token index: block {deepest + 1} keeps no patch: keep at least one")

    @classmethod
    def of(cls, masks: Sequence[int], *, rows: int, columns: int) -> TokenIndex:
        """Make the index of bitmasks of patches, block 1 first, in the shorter form; bit i stands for patch i."""
        before = (1 << rows * columns) - 1
        for block, mask in enumerate(masks, 1):
            if mask < 0 or mask.bit_length() > rows * columns:
                raise FormatError(
                    f"token index: block {block} keeps patches up to {mask.bit_length()}, an image has "
                    f"{rows * columns}: use the index with the backbone it was made for"
                )
            if back := mask & ~before:
                raise FormatError(
                    f"token index: block {block} keeps patch {kept_places(back)[0] + 1}, which block {block - 1} "
                    "leaves out: a patch that is taken out does not come back"
                )
            before = mask
        levels = [sum(mask >> patch & 1 for mask in masks) for patch in range(rows * columns)]
        return cls(len(masks), rows, columns, _shortest(levels, len(masks)))

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """How many blocks keep each patch, row by row."""
        width = self.blocks.bit_length()
        bits, ones = int.from_bytes(self._data, "little"), (1 << width) - 1
        if bits >> (width * self.patches):
            raise FormatError(f"token index has patches above {self.patches}: publish the task again")
        return tuple(bits >> (width * patch) & ones for patch in range(self.patches))

    @cached_property
    def patches_kept(self) -> tuple[int, ...]:
        """How many patches each block keeps, block 1 first."""
        return tuple(sum(level >= block for level in self.levels) for block in range(1, self.blocks + 1))

    @cached_property
    def steps(self) -> Mapping[int, Step]:
        """By block, counted from 0: what stays, where a block leaves out patches."""
        steps, there = {}, list(range(self.patches))
        for block in range(self.blocks):
            stay = [place for place, patch in enumerate(there) if self.levels[patch] > block]
            if len(stay) < len(there):
                steps[block] = Step(len(there), tuple(stay))
                there = [there[place] for place in stay]
        return steps

    @property
    def share(self) -> float:
        """The patches that blocks run on, over all blocks, as a share of all."""
        return sum(self.patches_kept) / (self.blocks * self.patches)

    @property
    def nbytes(self) -> int:
        """The bytes of the levels as they are stored; base64 and the manifest around them are not counted."""
        return len(base64.b64decode(self.kept.partition(":")[2]))

    @property
    def _data(self) -> bytes:
        """Return the levels' bytes, of exactly the length that there has to be."""
        form, _, text = self.kept.partition(":")
        whole = -(-self.patches * self.blocks.bit_length() // 8)
        if form not in (LEVELS, DEFLATE) or len(text) > 4 * (whole // 3 + 2):
            raise FormatError(f"token index {self.kept[:40]!r} is not valid: expected {LEVELS} or {DEFLATE}")
        try:
            data = base64.b64decode(text, validate=True)
            if form == DEFLATE:
                data = zlib.decompressobj(RAW_DEFLATE).decompress(data, whole + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise FormatError(f"token index cannot be decoded ({error}): publish the task again") from None
        if len(data) != whole:
            raise FormatError(
                f"token index has {len(data)} bytes, {self.patches} patches of {self.blocks} blocks take {whole}: "
                "publish the task again"
            )
        return data


def _shortest(levels: Sequence[int], blocks: int) -> str:
    width, bits = blocks.bit_length(), 0
    for level in reversed(levels):
        bits = bits << width | level
    raw = bits.to_bytes(-(-len(levels) * width // 8), "little")
    compressor = zlib.compressobj(9, zlib.DEFLATED, RAW_DEFLATE)
    packed = compressor.compress(raw) + compressor.flush()
    form, data = (DEFLATE, packed) if len(packed) < len(raw) else (LEVELS, raw)
    return f"{form}:{base64.b64encode(data).decode()}"
