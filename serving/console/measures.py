"""What a certificate says beside accuracy, and which heads and units a version keeps, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.console.rendering import percent, plural
from store.accounting.flops import block_flops, saved_by_width
from store.records.backbone import BackboneRecord
from store.records.evidence import Certificate
from store.records.measures import ClassCounts
from store.records.width import WidthIndex

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
class Width:
    """The heads and units that each block keeps, of so many; `saved` is the share of the blocks' operations."""

    heads: int
    units: int
    blocks: tuple[tuple[int, int], ...]
    nbytes: int
    saved: float | None

    @property
    def heads_text(self) -> str:
        return f"{sum(heads for heads, _ in self.blocks):,} of {self.heads * len(self.blocks):,}"

    @property
    def units_text(self) -> str:
        return f"{sum(units for _, units in self.blocks):,} of {self.units * len(self.blocks):,}"


def width_of(index: WidthIndex | None, record: BackboneRecord | None) -> Width | None:
    """Return what a version of less than full width keeps; None at full width."""
    if index is None:
        return None
    saved = None if record is None else saved_by_width(record, index)
    whole = None if record is None else block_flops(record)
    share = saved / sum(whole[: index.blocks]) if saved is not None and whole else None
    blocks = tuple(zip(index.heads_kept, index.units_kept, strict=True))
    return Width(index.heads, index.units, blocks, index.nbytes, share)
