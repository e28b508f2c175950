"""What the commands print and draw of widths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from onetrunk.cli.output import Format, log_to_stderr, print_rows
from onetrunk.rendering.tables import Record, to_json

if TYPE_CHECKING:
    from sls.width.trial import WidthPoint
    from store.records.evidence import Accuracy, PruneIndex


def print_points(points: Sequence[WidthPoint], fmt: Format) -> None:
    rows = [describe_point(point) for point in points]
    if fmt is Format.JSON:
        typer.echo(to_json(rows))
    else:
        print_rows(rows, fmt)


def describe_point(point: WidthPoint) -> Record:
    """Return what is printed of a budget."""
    width = point.width
    return {
        "budget": point.budget,
        "depth": width.blocks,
        "flops": round(point.flops, 4),
        "heads_kept": list(width.heads_kept),
        "units_kept": list(width.units_kept),
        "patches_kept": point.tokens and list(point.tokens.patches_kept),
        "index_nbytes": width.nbytes + (point.tokens.nbytes if point.tokens else 0),
        "accuracy": point.accuracy and point.accuracy.value,
        "accuracy_interval": point.accuracy and [round(end, 4) for end in point.accuracy.interval],
    }


def draw_points(name: str, points: Sequence[WidthPoint], folder: Path, *, full: Accuracy | None = None) -> None:
    """Draw what each budget keeps and, where there are validation images, what it costs."""
    from sls.plots.width_plot import draw_curves, draw_tokens, draw_widths

    widths = {f"budget {point.budget:g}": point.width for point in points}
    log_to_stderr(f"picture: {draw_widths(widths, folder / 'widths')}")
    if (tokens := points[0].tokens) is not None:
        log_to_stderr(f"picture: {draw_tokens({name: tokens}, folder / 'tokens')}")
    curve = [(point.flops, point.accuracy) for point in points if point.accuracy is not None]
    if curve:
        log_to_stderr(f"picture: {draw_curves({name: curve}, full, folder / 'width-curve')}")


def draw_index(task: str, index: PruneIndex, folder: Path) -> None:
    """Draw what a pruned task keeps; nothing for one of full width."""
    from sls.plots.width_plot import draw_tokens, draw_widths

    if index.width is not None:
        log_to_stderr(f"picture: {draw_widths({task: index.width}, folder / 'widths')}")
    if index.tokens is not None:
        log_to_stderr(f"picture: {draw_tokens({task: index.tokens}, folder / 'tokens')}")


def log_width(index: PruneIndex) -> None:
    if index.tokens is not None:
        tokens = index.tokens
        log_to_stderr(
            f"patches {sum(tokens.patches_kept)} of {tokens.blocks * tokens.patches}, {tokens.nbytes} bytes of index"
        )
    if index.width is not None:
        width = index.width
        heads, units = sum(width.heads_kept), sum(width.units_kept)
        log_to_stderr(
            f"heads {heads} of {width.blocks * width.heads}, units {units} of {width.blocks * width.units}, "
            f"{width.nbytes} bytes of index"
        )
