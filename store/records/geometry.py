"""The blocks of a backbone: one list of equal ones, or stages between which the width grows, as in a Swin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from store.errors import AdapterMismatchError

LAST_NORM = "norm"
QKV = ".attn.qkv"
PLAIN = re.compile(r"(?P<path>blocks\.(?P<block>\d{1,6}))(?:\.(?P<tail>.+))?")
STAGED = re.compile(
    r"(?P<path>layers\.(?P<stage>\d{1,4})\.(?:blocks\.(?P<block>\d{1,6})|downsample))(?:\.(?P<tail>.+))?"
)
MERGE = "downsample"
"""The merge of patches before the first block of a stage, to which it belongs."""


@dataclass(frozen=True)
class Geometry:
    """How many blocks each stage has, and how wide what they give is; a plain backbone is one stage.

    Blocks are counted from 1 over all stages. timm calls block 3 `blocks.2`, or in stages of two blocks
    `layers.1.blocks.0`; the engine calls both `blocks.2`, and what merges patches before it `blocks.2.downsample`.
    """

    stages: tuple[int, ...]
    stage_dims: tuple[int, ...]
    staged: bool

    @classmethod
    def of(cls, modules: Mapping[str, tuple[int, ...]]) -> Geometry:
        """Read it off the linear maps of a backbone: their full paths and shapes (out, in)."""
        maps = {path.removesuffix(QKV): shape[-1] for path, shape in modules.items() if path.endswith(QKV)}
        found = {path: match for path in maps if (match := STAGED.fullmatch(path))}
        if not found:
            plain = [width for path, width in maps.items() if PLAIN.fullmatch(path)]
            return cls((len(plain),), (plain[0] if plain else 0,), staged=False)
        counts: dict[int, int] = {}
        widths: dict[int, int] = {}
        for path, match in found.items():
            stage = int(match["stage"])
            counts[stage], widths[stage] = counts.get(stage, 0) + 1, maps[path]
        return cls(tuple(counts[s] for s in sorted(counts)), tuple(widths[s] for s in sorted(counts)), staged=True)

    @cached_property
    def blocks(self) -> int:
        return sum(self.stages)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """What timm calls each block."""
        if not self.staged:
            return tuple(f"blocks.{block}" for block in range(self.blocks))
        return tuple(
            f"layers.{stage}.blocks.{block}" for stage, count in enumerate(self.stages) for block in range(count)
        )

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """How wide what each block gives is."""
        return tuple(dim for dim, count in zip(self.stage_dims, self.stages, strict=True) for _ in range(count))

    def stage_of(self, depth: int) -> int:
        """Return the stage, from 0, in which the block of this depth is."""
        return next(stage for stage in range(len(self.stages)) if depth <= sum(self.stages[: stage + 1]))

    def ends_early(self, depth: int) -> bool:
        """Say whether this depth is before the last stage, whose width the backbone's last norm has."""
        return self.stage_of(depth) < len(self.stages) - 1

    def number(self, module: str) -> int:
        """Return the block of a module's full path, counted from 1; 0 for the last norm, which is in none.

        Blocks that this backbone does not have get a number above its last. Raises `AdapterMismatchError` where the
        path is in no block.
        """
        if module == LAST_NORM:
            return 0
        match = (STAGED if self.staged else PLAIN).match(module)
        if match is None:
            raise AdapterMismatchError(f"module {module[:120]!r} is not in a block: adapt modules in the blocks only")
        block = int(match["block"] or 0)
        if not self.staged:
            return block + 1
        stage = int(match["stage"])
        known = stage < len(self.stages) and block < self.stages[stage]
        return sum(self.stages[:stage]) + block + 1 if known else self.blocks + stage + block + 1

    def flat(self, module: str) -> str:
        """Return the engine's path of a module, such as `blocks.2.downsample.reduction`."""
        match = STAGED.fullmatch(module) if self.staged else None
        if match is None:
            return module
        merge = [MERGE] if match["block"] is None else []
        return ".".join([f"blocks.{self.number(module) - 1}", *merge, *filter(None, [match["tail"]])])

    def timm(self, flat: str) -> str:
        """Return timm's path of a module that the engine calls so."""
        match = PLAIN.fullmatch(flat) if self.staged else None
        if match is None:
            return flat
        path, tail = self.paths[int(match["block"])], match["tail"]
        if tail is not None and tail.split(".")[0] == MERGE:
            path = path.partition(".blocks.")[0]
        return path if tail is None else f"{path}.{tail}"


def count_blocks(modules: Iterable[str]) -> int:
    """Count the blocks that these modules are in; the merge before a stage is in its first."""
    paths = {match["path"] for module in modules if (match := STAGED.match(module) or PLAIN.match(module))}
    return len({path.replace(f".{MERGE}", ".blocks.0") for path in paths})
