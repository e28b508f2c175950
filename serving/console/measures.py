"""What a certificate says beside accuracy, and what of its blocks a version keeps, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.console.rendering import percent, plural
from store.accounting.flops import block_flops, saved_by_width
from store.records.backbone import BackboneRecord
from store.records.evidence import Certificate, PruneIndex
from store.records.measures import ClassCounts
from store.records.tokens import TokenIndex

MOST_CLASSES, MOST_CONFUSED = 60, 3


@dataclass(frozen=True)
class ClassRow:
    """A class of the head with its test images, those answered as it, and the shares that follow."""

    name: str
    images: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ClassTable:
    """Classes, the weakest first, at most `MOST_CLASSES` of `count`; the confusion matrix is "" where none is kept."""

    macro_f1: float
    rows: tuple[ClassRow, ...]
    count: int
    confused: str
    names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


def class_table(counts: ClassCounts | None, labels: Sequence[str]) -> ClassTable | None:
    """Return what was counted by class; None where nothing was, or the names cannot be read."""
    if counts is None or len(labels) != len(counts.images):
        return None
    precision, recall, f1 = counts.precision, counts.recall, counts.f1
    unknown = [place for place in range(len(f1)) if f1[place] is None]
    rows = tuple(
        ClassRow(labels[at], counts.images[at], counts.answered[at], precision[at], recall[at], f1[at])
        for at in (*counts.weakest, *unknown)
    )
    confused = ", ".join(
        f"{labels[pair.true]} as {labels[pair.answered]} ({pair.images:,})"
        for pair in counts.most_confused[:MOST_CONFUSED]
    )
    return ClassTable(counts.macro_f1, rows[:MOST_CLASSES], len(rows), confused, tuple(labels), counts.confusion)


def measures(certificate: Certificate | None) -> list[tuple[str, str]]:
    """Return what else was measured on the test images, as names and texts; what was not is left out."""
    if certificate is None:
        return []
    found = []
    calibration, rounding = certificate.calibration, certificate.rounding
    if calibration is not None:
        found.append(("Calibration error", (
            f"{percent(calibration.ece)}; at temperature {calibration.temperature:g}, which is not served, "
            f"{percent(calibration.ece_scaled)}"
        )))  # fmt: skip
    if rounding is not None:
        lost = 100 * (rounding.before.value - certificate.cut.value)
        found.append((f"Lost by {rounding.dtype}", f"{lost:.2f} points, from {percent(rounding.before)}"))
    if certificate.duplicates is not None:
        found.append(("Duplicates allowed", plural(certificate.duplicates, "image")))
    return found


@dataclass(frozen=True)
class Kind:
    """Heads, units or patches: how many each block keeps, of so many."""

    name: str
    long_name: str
    total: int
    kept: tuple[int, ...]

    @property
    def text(self) -> str:
        return f"{sum(self.kept):,} of {self.total * len(self.kept):,} {self.long_name}"


@dataclass(frozen=True)
class Width:
    """What each block keeps, by kind; `saved` is the share of the blocks' operations that the rest would take.

    `grids` are the patches of each block that stay, as a path of squares in a box of `columns` by `rows`; empty where
    all stay.
    """

    kinds: tuple[Kind, ...]
    nbytes: int
    saved: float | None
    columns: int = 0
    rows: int = 0
    grids: tuple[str, ...] = ()

    @property
    def names(self) -> str:
        return " and ".join(kind.name.lower() for kind in self.kinds)

    @property
    def text(self) -> str:
        return " and ".join(kind.text for kind in self.kinds)


def width_of(index: PruneIndex, record: BackboneRecord | None) -> Width | None:
    """Return what a version keeps that leaves out some of its blocks; None where it keeps all."""
    width, tokens, kinds = index.width, index.tokens, []
    if width is not None:
        kinds.append(Kind("Heads", "attention heads", width.heads, width.heads_kept))
        kinds.append(Kind("Units", "MLP units", width.units, width.units_kept))
    if tokens is not None:
        kinds.append(Kind("Patches", "patches", tokens.patches, tokens.patches_kept))
    if not kinds:
        return None
    saved = None if record is None else saved_by_width(record, width, tokens)
    whole = None if record is None else block_flops(record)
    share = saved / sum(whole[: index.depth]) if saved is not None and whole else None
    nbytes = sum(part.nbytes for part in (width, tokens) if part)
    if tokens is None:
        return Width(tuple(kinds), nbytes, share)
    grids = tuple(_squares(tokens, block) for block in range(1, tokens.blocks + 1))
    return Width(tuple(kinds), nbytes, share, tokens.columns, tokens.rows, grids)


def _squares(tokens: TokenIndex, block: int) -> str:
    kept = (patch for patch, level in enumerate(tokens.levels) if level >= block)
    return "".join(f"M{patch % tokens.columns} {patch // tokens.columns}h1v1h-1z" for patch in kept)
