"""The t-SNE maps of all blocks in one grid: how the classes separate from block to block, and where the cut is."""

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
"""The greatest number of classes in a legend."""
SIDE = 1.9
"""The width of a panel in inches."""


@dataclass(frozen=True)
class TsneMap:
    """A block's points (n, 2), the class of each, and their silhouette; `points` is None if there is no map."""

    points: npt.NDArray[np.float32] | None
    labels: Labels
    score: float


def draw_maps(
    features: BlockFeatures,
    labels: Labels,
    classes: Sequence[str],
    stem: str | Path,
    *,
    depth: int,
) -> Path:
    """Draw `stem`.svg and `stem`.png, one panel for each block, and return the first.

    The points are those that the criterion "sls" scores: t-SNE of pool(x_i), (blocks, n, dim), the rows sorted by
    content. Blocks above `depth` are grey. Raises `DataError` unless each row has one label, and each label a class
    name; `InvalidSettingError` for a depth outside 1..blocks.
    """
    for block in features.scored:
        check_rows(block, labels)
    blocks = len(features.scored)
    if not 1 <= depth <= blocks:
        raise InvalidSettingError(f"depth {depth} is outside 1..{blocks}: give one of these with `depth=`")
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"labels reach beyond 0..{len(classes) - 1}: give one name for each class")
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


def _map(features: npt.NDArray[np.float32], labels: Labels) -> TsneMap:
    if len(labels) <= PERPLEXITY or not np.isfinite(features).all():
        return TsneMap(None, labels, math.nan)
    order = content_order(features, labels)
    points, ordered = tsne_points(features[order]), labels[order]
    if points is None or not 1 < len(np.unique(ordered)) < len(ordered):
        return TsneMap(points, ordered, math.nan)
    return TsneMap(points, ordered, float(silhouette_score(points, ordered)))


def _draw(axes: Axes, tsne_map: TsneMap, block: int, depth: int) -> None:
    """Draw a block's points; frame the last kept block, and draw the blocks above it in grey."""
    pruned = block > depth
    score = "no score" if math.isnan(tsne_map.score) else f"{round(tsne_map.score, 2) + 0.0:.2f}"  # no -0.00
    state = ", pruned" if pruned else ", the cut" if block == depth else ""
    axes.set_title(f"{block}: {score}{state}", fontsize="small", color=FADED if pruned else "black", pad=3)
    axes.set(xticks=[], yticks=[], facecolor="#eeeeee" if pruned else "white")
    for spine in axes.spines.values():
        spine.set_edgecolor(FADED if pruned else CUT if block == depth else "black")
        spine.set_linestyle("--" if pruned else "-")
        spine.set_linewidth(2.5 if block == depth else 0.8)
    if tsne_map.points is None:
        axes.text(0.5, 0.5, "no map", transform=axes.transAxes, ha="center", va="center", color=FADED)
        return
    size = float(np.clip(4000 / len(tsne_map.labels), 3, 14))
    for label in np.unique(tsne_map.labels):
        ink, mark = pen(int(label))
        points = tsne_map.points[tsne_map.labels == label]
        width, alpha = 1.3 if mark in THIN else 0.6, 0.35 if pruned else 0.85
        axes.scatter(points[:, 0], points[:, 1], s=size, color=ink, marker=mark, linewidths=width, alpha=alpha)
    axes.margins(0.06)


def pen(label: int) -> tuple[str, Mark]:
    """Return a class's colour, one of 8, and marker, one of 25 (coprime): no two of 200 classes share both."""
    return INKS[label % len(INKS)], MARKS[label % len(MARKS)]


def _explain(figure: Figure, classes: Sequence[str], columns: int) -> None:
    if len(classes) > LEGEND:
        figure.supxlabel(f"{len(classes)} classes, a colour and marker each: too many for a legend", fontsize="small")
        return
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=ink, markersize=5)
        for ink, mark in map(pen, range(len(classes)))
    ]
    names = [shorten(name) for name in classes]
    wide = 0.35 + 0.08 * max(map(len, names))  # inches
    legend = figure.legend(
        handles,
        ["." for _ in names],  # matplotlib omits a name that begins with _
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
