"""How far a long step is, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A step of a stage is done: an epoch with its loss and validation accuracy, or a block with its score."""

    stage: str
    step: int
    steps: int
    seconds_left: float
    loss: float | None = None
    accuracy: float | None = None
    score: float | None = None


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Do nothing with it."""
