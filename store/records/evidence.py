"""Why a task is cut where it is, what it costs, and where it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from store.errors import FormatError
from store.records.measures import Calibration, ClassCounts
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex


@dataclass(frozen=True)
class PruneIndex:
    """What SLS decided: run blocks 1..depth of `blocks`, and the evidence for it.

    `scores[i]` belongs to block i + 1 and is None where the scan did not reach it; `threshold` is
    None and `reason` is set where the rule is undefined and nothing was pruned. `tolerance` replaces
    `alpha` where the threshold is not a share of the last score. `candidates` are the depths, this one
    among them, that scores within their noise of the threshold leave open; empty where it is decided. `width` is
    what each of these blocks keeps of its heads and units, `tokens` which patches it runs on, None where all are kept.
    """

    depth: int
    blocks: int
    criterion: str
    alpha: float | None = None
    threshold: float | None = None
    scores: tuple[float | None, ...] = ()
    seed: int | None = None
    samples: int = 0
    reason: str | None = None
    tolerance: float | None = None
    candidates: tuple[int, ...] = ()
    width: WidthIndex | None = None
    tokens: TokenIndex | None = None

    def __post_init__(self) -> None:
        for name, part in (("width", self.width), ("token", self.tokens)):
            if part is not None and part.blocks != self.depth:
                raise FormatError(
                    f"{name} index of {part.blocks} blocks at depth {self.depth}: give one for each block that runs"
                )
        if self.candidates and (
            self.depth not in self.candidates or not all(1 <= depth <= self.blocks for depth in self.candidates)
        ):
            raise FormatError(
                f"candidates {self.candidates} for depth {self.depth} of {self.blocks}: name depths, this one too"
            )
        if not 1 <= self.depth <= self.blocks:
            raise FormatError(
                f"depth {self.depth} is outside 1..{self.blocks}: a task runs at least one block and at most all"
            )
        if self.scores and len(self.scores) != self.blocks:
            raise FormatError(
                f"{len(self.scores)} scores for {self.blocks} blocks: give one for each block, None where not scored"
            )


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy as counts, so that its interval can be computed."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total < 1:
            raise FormatError(f"accuracy {self.correct}/{self.total}: expected 0 <= correct <= total and total >= 1")

    @property
    def value(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval (Wilson 1927)."""
        z, n, p = 1.959963984540054, self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Validation:
    """Accuracy on the validation images, which decide: at full depth, and at the cut after retuning."""

    full: Accuracy
    cut: Accuracy

    @property
    def drop(self) -> float:
        """Points lost at the cut; below 0 where it gains."""
        return 100 * (self.full.value - self.cut.value)

    def keeps(self, max_drop: float) -> bool:
        """Whether at most `max_drop` points are lost; as floats, 90 % less 89 % is above 1, hence the margin."""
        return self.drop <= max_drop + 1e-9


@dataclass(frozen=True)
class Rounding:
    """The 16-bit dtype in which adapter and head are stored, and the test accuracy at the cut before the rounding."""

    dtype: str
    before: Accuracy


@dataclass(frozen=True)
class Certificate:
    """Test accuracy of the task, by which nothing is chosen: at full depth, and at the cut before and after retuning.

    `full` is None where no model was tuned at full depth: what the cut costs is then not known. `max_drop` is the
    bound, in points, that `validation` was held to. `curve[i]` is the validation accuracy at depth i + 1 with a
    closed-form ridge head there: cheap, and comparable among depths. `duplicates` counts the images with the pixels
    of one in another split or under another label, which the user allowed; None where nobody looked for them.
    `rounding`, `class_counts` and `calibration` are of the test images at the cut; None where they were not measured.
    """

    full: Accuracy | None
    cut: Accuracy
    cut_before_retune: Accuracy | None = None
    validation: Validation | None = None
    max_drop: float | None = None
    curve: tuple[Accuracy, ...] = ()
    duplicates: int | None = None
    rounding: Rounding | None = None
    class_counts: ClassCounts | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        counts = self.class_counts
        if counts is not None and (sum(counts.correct), sum(counts.images)) != (self.cut.correct, self.cut.total):
            raise FormatError(
                f"counts by class of {sum(counts.correct)}/{sum(counts.images)} for accuracy "
                f"{self.cut.correct}/{self.cut.total}: count them again"
            )
        if self.duplicates is not None and self.duplicates < 0:
            raise FormatError(f"{self.duplicates} duplicates: give a count, or None where nobody looked")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise FormatError(f"max_drop {self.max_drop}: give points of accuracy, 0..100")
        if self.max_drop is not None and (self.validation is None or not self.validation.keeps(self.max_drop)):
            raise FormatError(f"max_drop {self.max_drop} is not kept by {self.validation}: cut less deep")


@dataclass(frozen=True)
class Lineage:
    """Where a version came from: the data's name and digest, the tuning recipe, and the library versions.

    `code_commit` is the git commit of the code that tuned it, `parent` the version that it was made from
    (`TASK@sha256:…`).
    """

    data: str | None = None
    data_digest: str | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    code_commit: str | None = None
    parent: str | None = None
