"""Score and accuracy against depth, with the threshold and the cut: one panel for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sls.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, save, shorten
from store.records.evidence import Accuracy, Certificate, PruneIndex

COLUMNS = 3
TICKS = 12
"""The greatest number of depths below a panel."""


def draw_depths(
    indexes: Mapping[str, PruneIndex],
    stem: str | Path,
    *,
    certificates: Mapping[str, Certificate] | None = None,
    accuracies: Mapping[str, tuple[Accuracy | None, ...]] | None = None,
) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; `accuracies[task][i]` is measured at depth i + 1.

    A panel shows the cut, the other candidates of an undecided index, the threshold, the accuracies of the certificate
    with their 95 % intervals, and its curve of ridge heads on the validation images.
    """
    columns = min(COLUMNS, len(indexes))
    rows = math.ceil(len(indexes) / columns)
    wide = 3.2 if max(index.blocks for index in indexes.values()) <= TICKS else 4.2
    figure = Figure(figsize=(max(wide * columns, 5.6), 2.6 * rows + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, index) in zip(panels, indexes.items(), strict=False):
        _draw(axes, name, index, (certificates or {}).get(name), (accuracies or {}).get(name, ()))
    for axes in panels[len(indexes) :]:
        axes.set_visible(False)
    lowest = min(score for index in indexes.values() for score in (0.0, *index.scores) if score is not None)
    panels[0].set_ylim(lowest - 0.03, 1.03)  # of all panels: they share the axis
    marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        marks.values(),
        marks.keys(),
        loc="outside lower center",
        ncols=3 if columns > 1 else 2,
        fontsize="small",
        frameon=False,
    )
    return save(figure, stem)


def _draw(
    axes: Axes, name: str, index: PruneIndex, certificate: Certificate | None, accuracies: Sequence[Accuracy | None]
) -> None:
    undecided = ", undecided" if index.candidates else ""
    axes.set_title(f"{shorten(name)}: {index.depth} of {index.blocks}{undecided}", fontsize="medium", parse_math=False)
    axes.axvline(index.depth, color=GREY, linestyle=":", label="the cut")
    for depth in set(index.candidates) - {index.depth}:
        axes.axvspan(depth - 0.3, depth + 0.3, color=GREY, alpha=0.2, linewidth=0, label="other candidate for the cut")
    known = [(block, score) for block, score in enumerate(index.scores, start=1) if score is not None]
    _draw_scores(axes, index, known)
    curve = certificate.curve if certificate is not None else ()
    _draw_accuracies(axes, accuracies, curve)
    if certificate is not None:
        _certify(axes, index, certificate)
    margin = max(0.5, index.blocks / 40)
    axes.set_xlim(1 - margin, index.blocks + margin)
    axes.set_xticks(_ticks(index.blocks))
    axes.set_xlabel("depth (blocks)", fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.grid(visible=True, alpha=0.25)


def _ticks(blocks: int) -> range:
    """Return at most 12 depths; they include the last block if a step of up to twice the least one divides it."""
    least = math.ceil(blocks / TICKS)
    step = next((step for step in range(least, 2 * least + 1) if blocks % step == 0), least)
    return range(step, blocks + 1, step)


def _draw_scores(axes: Axes, index: PruneIndex, known: Sequence[tuple[int, float]]) -> None:
    if index.threshold is not None:
        axes.axhline(index.threshold, color=ORANGE, linestyle="--", label="threshold of the score")
    if known:
        size = 4 if index.blocks <= TICKS else 3
        axes.plot(*zip(*known, strict=True), "o-", color=BLUE, markersize=size, label="score of the block")
    elif index.reason:
        axes.text(0.5, 0.5, "not scored", transform=axes.transAxes, ha="center", color=GREY, fontsize="small")


def _draw_accuracies(axes: Axes, accuracies: Sequence[Accuracy | None], curve: Sequence[Accuracy]) -> None:
    """Draw at each depth the test accuracy of the tuned model cut there, and a ridge head's validation accuracy."""
    for measured, style, ink, label in (
        (accuracies, "-", GREEN, "accuracy, cut there"),
        (curve, "-.", PURPLE, "validation accuracy, ridge head there"),
    ):
        known = [(depth, accuracy.value) for depth, accuracy in enumerate(measured, 1) if accuracy is not None]
        if known:
            axes.plot(*zip(*known, strict=True), style, color=ink, linewidth=1.2, label=label)


def _certify(axes: Axes, index: PruneIndex, certificate: Certificate) -> None:
    """Mark test accuracy at full depth and at the cut, with their 95 % intervals."""
    for depth, accuracy, mark, edge, label in (
        (index.blocks, certificate.full, "s", GREEN, "accuracy, all blocks"),
        (index.depth, certificate.cut, "D", "black", "accuracy, tuned again at the cut"),
    ):
        if accuracy is None:
            continue
        low, high = accuracy.interval
        # near 0 and 1, rounding may put the end of the interval on the wrong side of the value
        spread = [[max(0.0, accuracy.value - low)], [max(0.0, high - accuracy.value)]]
        axes.errorbar(
            [depth], [accuracy.value], spread, fmt=mark, color=GREEN, mec=edge, markersize=5, capsize=3, label=label
        )
