"""Score and accuracy against depth, with the threshold and the cut: one panel a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from store.evidence import Accuracy, Certificate, PruneIndex

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"
"""Okabe and Ito's, told apart by colour-blind readers; marks and dashes tell them apart in print."""

COLUMNS = 3


def draw_depths(
    indexes: Mapping[str, PruneIndex],
    stem: Path,
    *,
    certificates: Mapping[str, Certificate] | None = None,
    accuracies: Mapping[str, tuple[Accuracy, ...]] | None = None,
) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first; `accuracies[task][i]` is measured at depth i + 1."""
    columns = min(COLUMNS, len(indexes))
    rows = math.ceil(len(indexes) / columns)
    figure = Figure(figsize=(max(3.2 * columns, 5.6), 2.6 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, index) in zip(panels, indexes.items(), strict=False):
        _draw(axes, name, index, (certificates or {}).get(name), (accuracies or {}).get(name, ()))
    for axes in panels[len(indexes) :]:
        axes.set_visible(False)
    marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        marks.values(),
        marks.keys(),
        loc="outside lower center",
        ncols=min(columns + 1, 3),
        fontsize="small",
        frameon=False,
    )
    stem.parent.mkdir(parents=True, exist_ok=True)
    svg = stem.with_name(stem.name + ".svg")
    with matplotlib.rc_context({"svg.hashsalt": stem.name}):
        figure.savefig(svg, metadata={"Date": None})
    figure.savefig(stem.with_name(stem.name + ".png"), dpi=144)
    return svg


def _draw(
    axes: Axes, name: str, index: PruneIndex, certificate: Certificate | None, accuracies: tuple[Accuracy, ...]
) -> None:
    axes.set_title(f"{name}: {index.depth} of {index.blocks}", fontsize="medium")
    axes.axvline(index.depth, color=GREY, linestyle=":", label="the cut")
    if index.threshold is not None:
        axes.axhline(index.threshold, color=ORANGE, linestyle="--", label="threshold of the score")
    known = [(block, score) for block, score in enumerate(index.scores, start=1) if score is not None]
    if known:
        axes.plot(*zip(*known, strict=True), "o-", color=BLUE, markersize=4, label="score of the block")
    if accuracies:
        values = [accuracy.value for accuracy in accuracies]
        axes.plot(range(1, len(values) + 1), values, "-", color=GREEN, linewidth=1, label="accuracy, cut there")
    if certificate is not None:
        _certify(axes, index, certificate)
    axes.set_xlim(0.5, index.blocks + 0.5)
    axes.set_ylim(min([0, *(score for _, score in known)]) - 0.02, 1.02)
    axes.set_xticks(range(1, index.blocks + 1) if index.blocks <= 12 else range(2, index.blocks + 1, 2))
    axes.set_xlabel("depth (blocks)", fontsize="small")
    axes.tick_params(labelsize="x-small")
    axes.grid(visible=True, alpha=0.25)


def _certify(axes: Axes, index: PruneIndex, certificate: Certificate) -> None:
    """Mark test accuracy at full depth and at the cut, with its 95 % interval."""
    axes.plot([index.blocks], [certificate.full.value], "s", color=GREEN, label="accuracy, all blocks")
    value, (low, high) = certificate.cut.value, certificate.cut.interval
    spread = [[value - low], [high - value]]
    label = "accuracy, tuned again at the cut"
    axes.errorbar([index.depth], [value], spread, fmt="D", color=GREEN, mec="black", capsize=3, label=label)
