"""Heads, units and patches that each block keeps, as the ViT-Slim article draws them, and accuracy by budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from sls.plots.style import BLUE, GREEN, GREY, ORANGE, save, shorten
from store.records.evidence import Accuracy
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex

Point = tuple[float, Accuracy]
COLUMNS = 6
KEPT = ListedColormap(["#e0e0e0", GREEN])


def draw_widths(widths: Mapping[str, WidthIndex], stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first: a row of two panels for each width, heads and units."""
    figure = Figure(figsize=(7.2, 2.1 * len(widths) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(widths), 2, squeeze=False)
    for (name, width), (left, right) in zip(widths.items(), rows, strict=True):
        _bars(left, f"{shorten(name)}: heads", width.heads_kept, width.heads, BLUE)
        _bars(right, f"{shorten(name)}: MLP units", width.units_kept, width.units, ORANGE)
    for axes in rows[-1]:
        axes.set_xlabel("block", fontsize="small")
    return save(figure, stem)


def draw_curves(curves: Mapping[str, Sequence[Point]], full: Accuracy | None, stem: str | Path) -> Path:
    """Draw accuracy, with its 95 % interval, against the share of the operations that is kept."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    if full is not None:
        axes.axhline(full.value, color=GREY, linestyle=":", label="full width")
    for (name, points), ink in zip(curves.items(), (BLUE, ORANGE, GREEN, GREY), strict=False):
        shares, values = [share for share, _ in points], [accuracy.value for _, accuracy in points]
        ends = [accuracy.interval for _, accuracy in points]
        spread = [
            [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
        ]
        axes.errorbar(shares, values, spread, fmt="o-", color=ink, capsize=3, markersize=4, label=shorten(name))
    axes.set_xlabel("share of the blocks' operations", fontsize="small")
    axes.set_ylabel("accuracy", fontsize="small")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize="small", frameon=False)
    return save(figure, stem)


def _bars(axes: Axes, title: str, kept: Sequence[int], total: int, ink: str) -> None:
    blocks = range(1, len(kept) + 1)
    axes.bar(blocks, [total] * len(kept), color=GREY, alpha=0.2)
    axes.bar(blocks, kept, color=ink)
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.set_ylim(0, total)
    axes.set_xticks([block for block in blocks if len(kept) <= 12 or block % 4 == 0])
    axes.tick_params(labelsize="x-small")


def draw_tokens(indexes: Mapping[str, TokenIndex], stem: str | Path) -> Path:
    """Draw `stem`.svg and `stem`.png and return the first: the patches that each block keeps, as a grid for each."""
    columns = min(COLUMNS, max(index.blocks for index in indexes.values()))
    lines = [-(-index.blocks // columns) for index in indexes.values()]
    figure = Figure(figsize=(1.2 * columns, 1.45 * sum(lines) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = iter(figure.subplots(sum(lines), columns, squeeze=False))
    for (name, index), count in zip(indexes.items(), lines, strict=True):
        own = [axes for _ in range(count) for axes in next(panels)]
        for block, axes in enumerate(own, 1):
            axes.set_axis_off()
            if block <= index.blocks:
                _patches(axes, index, block)
        own[0].set_title(f"{shorten(name)}\n{own[0].get_title()}", fontsize="x-small", parse_math=False)
    return save(figure, stem)


def _patches(axes: Axes, index: TokenIndex, block: int) -> None:
    kept = [level >= block for level in index.levels]
    rows = [kept[start : start + index.columns] for start in range(0, index.patches, index.columns)]
    axes.pcolormesh(rows, cmap=KEPT, vmin=0, vmax=1, edgecolors="white", linewidth=0.3)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_title(f"block {block}: {sum(kept)} of {index.patches}", fontsize="x-small", parse_math=False)
