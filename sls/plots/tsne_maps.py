"""The t-SNE map of every block in one grid: how the classes come apart on the way up, and where the cut is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import silhouette_score

from sls.plots.style import CUT, FADED, INKS, MARKS, THIN, Mark, save, shorten
from sls.scoring.feature_rows import Labels, check_rows, content_order
from sls.scoring.features import BlockFeatures
from sls.scoring.tsne import PERPLEXITY, tsne_points
from store.errors import DataError, InvalidSettingError

LEGEND = 20
"""Classes that a legend still tells apart at a glance."""
SIDE = 1.9
"""Inches of a panel."""


@dataclass(frozen=True)
class Map:
    """A block's points (n, 2), the class of each, and their silhouette; `points` is None where there is no map."""

    points: npt.NDArray[np.float32] | None
    labels: Labels
    score: float


def draw_maps(
    features: BlockFeatures,
    labels: Labels,
    classes: Sequence[str],
    stem: Path,
    *,
    depth: int,
) -> Path:
    """Draw `stem`.svg and `stem`.png, a panel a block, and return the first.

    The points are those that the criterion "sls" scores: t-SNE of pool(x_i), (blocks, n, dim), the rows in
    the order of their content. Blocks above `depth` are greyed. Raises `DataError` for labels that are not
    one a row or have no class name, `InvalidSettingError` for a depth that there is no block for.
    """
    check_rows(features.scored, labels)
    blocks = len(features.scored)
    if not 1 <= depth <= blocks:
        raise InvalidSettingError(f"depth {depth} is outside 1..{blocks}: mark a block that there is")
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"labels reach beyond 0..{len(classes) - 1}: give one name a class")
    columns = min(blocks, 4 if blocks <= 12 else 6 if blocks <= 24 else 8)
    rows = math.ceil(blocks / columns)
    figure = Figure(figsize=(max(SIDE * columns, 5.6), (SIDE + 0.25) * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for block, axes in enumerate(panels, start=1):
        if block > blocks:
            axes.set_visible(False)
            continue
        _draw(axes, _map(features.scored[block - 1], labels), block, depth)
    figure.suptitle(
        f"t-SNE of {len(labels)} images after each block, its silhouette above it; cut at depth {depth} of {blocks}",
        fontsize="medium",
    )
    _explain(figure, classes, columns)
    return save(figure, stem)


def _map(features: npt.NDArray[np.float32], labels: Labels) -> Map:
    if len(labels) <= PERPLEXITY or not np.isfinite(features).all():
        return Map(None, labels, math.nan)
    order = content_order(features, labels)
    points, ordered = tsne_points(features[order]), labels[order]
    if points is None or not 1 < len(np.unique(ordered)) < len(ordered):
        return Map(points, ordered, math.nan)
    return Map(points, ordered, float(silhouette_score(points, ordered)))


def _draw(axes: Axes, found: Map, block: int, depth: int) -> None:
    """Draw a block's points; frame the last block that is kept, and grey those above it."""
    pruned = block > depth
    score = "no score" if math.isnan(found.score) else f"{round(found.score, 2) + 0.0:.2f}"  # no -0.00
    state = ", pruned" if pruned else ", the cut" if block == depth else ""
    axes.set_title(f"{block}: {score}{state}", fontsize="small", color=FADED if pruned else "black", pad=3)
    axes.set(xticks=[], yticks=[], facecolor="#eeeeee" if pruned else "white")
    for spine in axes.spines.values():
        spine.set_edgecolor(FADED if pruned else CUT if block == depth else "black")
        spine.set_linestyle("--" if pruned else "-")
        spine.set_linewidth(2.5 if block == depth else 0.8)
    if found.points is None:
        axes.text(0.5, 0.5, "no map", transform=axes.transAxes, ha="center", va="center", color=FADED)
        return
    size = float(np.clip(4000 / len(found.labels), 3, 14))
    for label in np.unique(found.labels):
        ink, mark = pen(int(label))
        own = found.points[found.labels == label]
        width, alpha = 1.3 if mark in THIN else 0.6, 0.35 if pruned else 0.85
        axes.scatter(own[:, 0], own[:, 1], s=size, color=ink, marker=mark, linewidths=width, alpha=alpha)
    axes.margins(0.06)


def pen(label: int) -> tuple[str, Mark]:
    """Return a class's colour and mark: 8 and 25, which share no divisor, so no two of 200 classes have both alike."""
    return INKS[label % len(INKS)], MARKS[label % len(MARKS)]


def _explain(figure: Figure, classes: Sequence[str], columns: int) -> None:
    if len(classes) > LEGEND:
        figure.supxlabel(f"{len(classes)} classes, a colour and a mark each: too many for a legend", fontsize="small")
        return
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=ink, markersize=5)
        for ink, mark in map(pen, range(len(classes)))
    ]
    names = [shorten(name) for name in classes]
    wide = 0.35 + 0.08 * max(map(len, names))  # inches
    legend = figure.legend(
        handles,
        ["." for _ in names],  # a name that begins with _ would be left out
        loc="outside lower center",
        ncols=max(1, min(len(names), int(SIDE * columns / wide))),
        fontsize="small",
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
