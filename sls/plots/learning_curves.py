"""Loss and validation accuracy by epoch: one panel for each, and a line for each stage of the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sls.plots.style import BLUE, GREEN, ORANGE, PURPLE, save
from sls.progress import Progress

INKS = (BLUE, ORANGE, GREEN, PURPLE)


def draw_curves(curve: Sequence[Progress], stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; the epochs of all stages are counted on."""
    epochs = [step for step in curve if step.loss is not None]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    stages = list(dict.fromkeys(step.stage for step in epochs))
    for ink, stage in zip(INKS * len(stages), stages, strict=False):
        own = [(number, step) for number, step in enumerate(epochs, start=1) if step.stage == stage]
        _line(loss, [(number, step.loss) for number, step in own], stage, ink)
        _line(accuracy, [(number, step.accuracy) for number, step in own], stage, ink)
    loss.set_ylabel("training loss", fontsize="small")
    accuracy.set_ylabel("validation accuracy", fontsize="small")
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch", fontsize="small")
        axes.tick_params(labelsize="x-small")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=True, alpha=0.25)
    if epochs:
        loss.legend(fontsize="small", frameon=False)
    return save(figure, stem)


def _line(axes: Axes, points: Sequence[tuple[int, float | None]], label: str, ink: str) -> None:
    known = [(epoch, value) for epoch, value in points if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "o-", color=ink, markersize=4, label=label)
