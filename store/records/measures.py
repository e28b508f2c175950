"""What a certificate says beside accuracy: counts by class, and calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from store.errors import FormatError

MOST_COUNTED, MOST_CONFUSED = 100, 20
"""The greatest numbers of classes whose counts, and whose confusions, a certificate holds: it should stay small."""


class Confused(NamedTuple):
    """Images of one class that were answered as another; classes by their places."""

    true: int
    answered: int
    images: int


@dataclass(frozen=True)
class ClassCounts:
    """Test images by class, in the order of the head's rows: of this class, answered as it, and both.

    `confusion[i][j]` counts the images of class i that were answered as class j; empty where there are many classes.
    """

    images: tuple[int, ...]
    answered: tuple[int, ...]
    correct: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.answered) == len(self.correct):
            raise FormatError("counts of different numbers of classes: give one of each kind for every class")
        for images, answered, correct in zip(self.images, self.answered, self.correct, strict=True):
            if not 0 <= correct <= min(images, answered):
                raise FormatError(f"{correct} correct of {images} images and {answered} answers: count them again")
        if sum(self.images) != sum(self.answered):
            raise FormatError(f"{sum(self.images)} images and {sum(self.answered)} answers: give one for each")
        if self.confusion and not self._confusion_agrees():
            raise FormatError("a confusion matrix with other sums than the counts: count them again")

    def _confusion_agrees(self) -> bool:
        rows = self.confusion
        square = {len(rows), *map(len, rows)} == {len(self.images)}
        return (
            square
            and min(map(min, rows)) >= 0
            and tuple(map(sum, rows)) == self.images
            and tuple(map(sum, zip(*rows, strict=True))) == self.answered
            and tuple(row[place] for place, row in enumerate(rows)) == self.correct
        )

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Share of the answers that are right, for each class; None for a class that was never answered."""
        return _shares(self.correct, self.answered)

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Share of the images that are answered right, for each class; None for a class without images."""
        return _shares(self.correct, self.images)

    @property
    def f1(self) -> tuple[float | None, ...]:
        """Harmonic mean of precision and recall, for each class; None for a class without images and answers."""
        either = [images + answered for images, answered in zip(self.images, self.answered, strict=True)]
        return _shares([2 * correct for correct in self.correct], either)

    @property
    def macro_f1(self) -> float:
        """The mean over the classes that have images."""
        known = [share for share, images in zip(self.f1, self.images, strict=True) if images and share is not None]
        return sum(known) / len(known)

    @property
    def weakest(self) -> tuple[int, ...]:
        """The places of the classes with a known F1, the lowest first."""
        known = [(f1, place) for place, f1 in enumerate(self.f1) if f1 is not None]
        return tuple(place for _, place in sorted(known))

    @property
    def most_confused(self) -> tuple[Confused, ...]:
        """Every confusion that occurred, the most frequent first."""
        pairs = [
            Confused(true, answered, count)
            for true, row in enumerate(self.confusion)
            for answered, count in enumerate(row)
            if count and true != answered
        ]
        return tuple(sorted(pairs, key=lambda pair: (-pair.images, pair.true, pair.answered)))


@dataclass(frozen=True)
class Calibration:
    """How well the scores say how often they are right: the expected calibration error on the test images.

    `temperature` was fitted on `fitted_on` validation images; `ece_scaled` is the error of softmax(logits /
    temperature). It is a record: what is served is softmax(logits).
    """

    temperature: float
    fitted_on: int
    ece: float
    ece_scaled: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or self.fitted_on < 1:
            raise FormatError(f"temperature {self.temperature} of {self.fitted_on} images: give numbers above 0")
        if not (0 <= self.ece <= 1 and 0 <= self.ece_scaled <= 1):
            raise FormatError(f"calibration errors {self.ece} and {self.ece_scaled}: give shares, 0..1")


def _shares(parts: Sequence[int], wholes: Sequence[int]) -> tuple[float | None, ...]:
    return tuple(part / whole if whole else None for part, whole in zip(parts, wholes, strict=True))
