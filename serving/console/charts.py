"""Where the marks of a picture go: lines over depth, and the backbone with its tasks leaving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from store.records.evidence import Accuracy, Certificate, PruneIndex

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 34


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A value at a depth; `low` and `high` are where its interval ends, None where it has none."""

    x: float
    y: float
    depth: int
    label: str
    low: float | None = None
    high: float | None = None
    is_cut: bool = False
    is_candidate: bool = False


@dataclass(frozen=True)
class Chart:
    """Values over depth: places in a box of WIDTH by HEIGHT."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    cut_x: float
    threshold_y: float | None
    threshold: str | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def line(self) -> str:
        return " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in self.marks)

    @property
    def band(self) -> str:
        """The area between the ends of the intervals, as the points of a polygon; "" without intervals."""
        ends = [(mark.x, mark.low, mark.high) for mark in self.marks if mark.low is not None and mark.high is not None]
        around = [(x, high) for x, _, high in ends] + [(x, low) for x, low, _ in reversed(ends)]
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in around)


@dataclass(frozen=True)
class Scale:
    low: float
    high: float

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def accuracy_chart(curve: Sequence[Accuracy], depth: int) -> Chart:
    """Draw validation accuracy over depth with its intervals."""
    low = min(accuracy.interval[0] for accuracy in curve)
    scale = Scale(max(0.0, math.floor(low * 10) / 10), 1.0)
    marks = [
        Mark(
            _x(number, len(curve)), scale.y(accuracy.value), number, f"{accuracy.value:.1%}",
            scale.y(accuracy.interval[0]), scale.y(accuracy.interval[1]), is_cut=number == depth,
        )
        for number, accuracy in enumerate(curve, 1)
    ]  # fmt: skip
    return _chart(marks, len(curve), depth, [Tick(scale.y(v), f"{v:.0%}") for v in _ticks(scale.low, 1.0)], None, None)


def score_chart(index: PruneIndex) -> Chart | None:
    """Draw the scores of the blocks with the threshold; None where no block was scored."""
    scored = [(number, score) for number, score in enumerate(index.scores, 1) if score is not None]
    if not scored:
        return None
    values = [score for _, score in scored] + ([] if index.threshold is None else [index.threshold])
    span, largest = max(values) - min(values), max(map(abs, values))
    # Scores that are equal but for rounding get a range of their own size.
    pad = max(1e-8, 0.08 * span if span > 1e-9 * largest else 0.1 * largest or 1.0)
    scale = Scale(min(values) - pad, max(values) + pad)
    marks = [
        Mark(
            _x(number, index.blocks), scale.y(score), number, f"{score:.4g}",
            is_cut=number == index.depth, is_candidate=number in index.candidates,
        )
        for number, score in scored
    ]  # fmt: skip
    ticks = [Tick(scale.y(value), f"{value:.3g}") for value in _ticks(scale.low, scale.high)]
    threshold = index.threshold
    return _chart(
        marks, index.blocks, index.depth, ticks,
        None if threshold is None else scale.y(threshold), None if threshold is None else f"{threshold:.4g}",
    )  # fmt: skip


def _chart(
    marks: list[Mark], blocks: int, depth: int, y_ticks: list[Tick], threshold_y: float | None, threshold: str | None
) -> Chart:
    step = max(1, math.ceil(blocks / 24))
    x_ticks = tuple(Tick(_x(number, blocks), str(number)) for number in range(1, blocks + 1, step))
    return Chart(tuple(marks), x_ticks, tuple(y_ticks), _x(depth, blocks), threshold_y, threshold)


def _x(number: int, blocks: int) -> float:
    inner = WIDTH - LEFT - RIGHT - 24
    return LEFT + 12 + (inner / 2 if blocks == 1 else inner * (number - 1) / (blocks - 1))


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values within the range."""
    step = 10 ** math.floor(math.log10(high - low))
    step = next((step * part for part in (1, 0.5, 0.2, 0.1) if (high - low) / (step * part) >= 3), step * 0.1)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Estimate:
    """An accuracy of the certificate as a dot with its interval, in a box of 100 by 10."""

    name: str
    accuracy: Accuracy
    x: float
    low: float
    high: float


def axis_low(certificate: Certificate) -> float:
    """Return where the axis of the test accuracies begins, in percent: a round number below the lowest interval."""
    values = (certificate.full, certificate.cut_before_retune, certificate.cut)
    low = min(accuracy.interval[0] for accuracy in values if accuracy is not None)
    return min(90.0, math.floor(low * 10) * 10.0)


def estimates(certificate: Certificate) -> tuple[Estimate, ...]:
    """Return the test accuracies of a certificate on one axis, in percent of its length."""
    low = axis_low(certificate)

    def place(share: float) -> float:
        return (100 * share - low) / (100 - low) * 100

    values = {
        "Full depth": certificate.full,
        "At the cut, before retuning": certificate.cut_before_retune,
        "At the cut": certificate.cut,
    }
    return tuple(
        Estimate(name, accuracy, place(accuracy.value), place(accuracy.interval[0]), place(accuracy.interval[1]))
        for name, accuracy in values.items()
        if accuracy is not None
    )
