"""Bytes per task, stacked by what they are."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from store.accounting.pictures.drawing import Picture, canvas, element, label, line, shorten, tooltip
from store.accounting.pictures.scales import linear_ticks, size
from store.accounting.report import StorageReport
from store.accounting.rows import PARTS, TaskReport

WIDTH, LEFT, RIGHT, TOP, ROW = 860, 190, 90, 58, 22
MOST = 20
WORDS = {"adapter": "adapter", "head": "head", "header": "tensor headers", "manifest": "manifest"}
WORDS |= {"config": "adapter config", "labels": "class names", "unknown": "not divided"}


def task_bars(report: StorageReport, *, most: int = MOST) -> Picture:
    """Draw the latest version of each of the largest tasks as a bar; the rows have every task."""
    tasks = sorted(report.tasks, key=lambda task: (-task.nbytes, task.task))
    shown, rest = tasks[:most], tasks[most:]
    kinds = [part for part in PARTS if any(_part(task, part) for task in tasks)]
    bars = [(task.task, [_part(task, part) for part in kinds]) for task in shown]
    if rest:
        mean = [sum(_part(task, part) for task in rest) // len(rest) for part in kinds]
        bars.append((f"{len(rest)} smaller ones, mean", mean))
    title = "Bytes of each task, by kind"
    text = (
        f"The latest version of {'each task' if not rest else f'the {len(shown)} largest of {len(tasks)} tasks'}, "
        "in SI units: 1 kB is 1000 B. Tensors of adapter and head; the rest describes them."
    )
    height = TOP + ROW * max(1, len(bars)) + 34
    parts = _legend(kinds) + _axis(bars, height) + _bars(bars, kinds)
    svg = canvas("task-bytes", title, text, parts, width=WIDTH, height=height)
    rows = [{"task": t.task, **{f"{part}_nbytes": _part(t, part) for part in PARTS}, "nbytes": t.nbytes} for t in tasks]
    return Picture("task-bytes", title, text, svg, rows)


def _part(task: TaskReport, part: str) -> int:
    return int(getattr(task, f"{part}_nbytes"))


def _legend(kinds: Sequence[str]) -> list[str]:
    parts, x = [], float(LEFT)
    for kind in kinds:
        number = PARTS.index(kind)
        parts.append(element("rect", x=x, y=10, width=11, height=11, rx=2, cls=f"f{number}"))
        parts.append(label(x + 16, 20, WORDS[kind]))
        x += 30 + 6.4 * len(WORDS[kind])
    return parts


def _scale(bars: Sequence[tuple[str, Sequence[int]]]) -> tuple[list[float], float]:
    ticks = linear_ticks(max((sum(values) for _, values in bars), default=0))
    return ticks, (WIDTH - LEFT - RIGHT) / ticks[-1]


def _axis(bars: Sequence[tuple[str, Sequence[int]]], height: float) -> list[str]:
    ticks, scale = _scale(bars)
    parts = []
    for tick in ticks:
        x = LEFT + tick * scale
        parts.append(line(x, TOP - 8, x, height - 30, "grid"))
        parts.append(label(x, height - 14, size(tick), "muted mid"))
    return parts


def _bars(bars: Sequence[tuple[str, Sequence[int]]], kinds: Sequence[str]) -> list[str]:
    _, scale = _scale(bars)
    parts = [] if bars else [label(LEFT, TOP + 12, "no task is published yet", "muted")]
    for number, (name, values) in enumerate(bars):
        y, x = TOP + ROW * number, float(LEFT)
        parts.append(element("text", tooltip(name) + escape(shorten(name, LEFT - 16)), x=LEFT - 8, y=y + 12, cls="end"))
        for kind, value in zip(kinds, values, strict=True):
            told = tooltip(f"{name}: {WORDS[kind]} {value:,} B")
            colour = f"f{PARTS.index(kind)}"
            parts.append(element("rect", told, x=x, y=y, width=value * scale, height=ROW - 6, cls=colour))
            x += value * scale
        parts.append(label(x + 6, y + 12, size(sum(values)), "muted"))
    return parts
