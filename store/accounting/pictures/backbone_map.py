"""A backbone drawn as its blocks, with every task leaving at its depth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import escape

from store.accounting.pictures.drawing import CHARACTER, Picture, canvas, element, label, line, tooltip
from store.accounting.pictures.scales import count
from store.accounting.rows import BackboneReport, TaskReport

WIDTH, LEFT, BAND, TOP, ROW = 860, 116, 150, 46, 28
LEVELS = ("soft", "f5", "f0", "f4", "f1")
"""Fills of a block by its load, from none to all of the time."""


def backbone_map(
    backbone: BackboneReport,
    tasks: Sequence[TaskReport],
    *,
    load: Mapping[int, float] | None = None,
    link: Callable[[str], str] | None = None,
    name: str = "backbone",
) -> Picture:
    """Draw the blocks of one backbone from the first down; a band beside them is as wide as the tasks that still run.

    `load` gives the share of the time, 0..1, for which a block was busy, and colours it; `link` gives a task's address.
    """
    own = [task for task in tasks if task.backbone == backbone.name]
    leaving: defaultdict[int, list[str]] = defaultdict(list)
    for task in own:
        leaving[task.depth].append(task.task)
    blocks = backbone.blocks or max((task.blocks for task in own), default=1)
    title = f"{backbone.name}: where tasks leave"
    run, whole = sum(task.depth for task in own), len(own) * blocks
    text = f"{count(len(own))} tasks run {count(run)} of {count(whole)} blocks, one image each. "
    text += "The band is as wide as the share of tasks that a block still serves."
    parts, running = _head(own), len(own)
    rows: list[dict[str, object]] = []
    for block in range(1, blocks + 1):
        share = running / len(own) if own else 0.0
        parts += _block(block, share, None if load is None else load.get(block, 0.0))
        parts += _exit(block, leaving[block], link)
        rows.append({"block": block, "running": running, "leaving": len(leaving[block]), "tasks": leaving[block]})
        running -= len(leaving[block])
    height = TOP + ROW * blocks + 12
    return Picture(name, title, text, canvas(name, title, text, parts, width=WIDTH, height=height), rows)


def _head(own: Sequence[TaskReport]) -> list[str]:
    return [
        label(LEFT - 8, 22, "image", "muted end"),
        line(LEFT - 4, 18, LEFT + BAND, 18, "axis"),
        label(LEFT + BAND + 10, 22, f"{count(len(own))} tasks enter block 1", "muted"),
    ]


def _block(block: int, share: float, load: float | None) -> list[str]:
    y = TOP + ROW * (block - 1) - 10
    box = {"x": LEFT, "y": y, "width": BAND, "height": ROW - 4, "rx": 3}
    if load is not None:
        fill, told = LEVELS[min(4, round(max(0.0, load) * 4))], f"block {block}: busy {load:.0%} of the time"
    else:
        fill, told = "f5", f"block {block}: {share:.0%} of the tasks"
    return [
        element("rect", tooltip(told), **box, cls="box"),
        element("rect", tooltip(told), **{**box, "width": BAND * share}, cls=fill),
        label(LEFT - 52, y + 16, f"block {block}", "end"),
        label(LEFT - 8, y + 16, f"{share:.0%}", "muted end"),
    ]


def _exit(block: int, names: Sequence[str], link: Callable[[str], str] | None) -> list[str]:
    """Draw the way out of a block, and as many names as there is room for."""
    if not names:
        return []
    x, y = LEFT + BAND, TOP + ROW * (block - 1) + 2
    arrow = f"{x},{y} {x + 26},{y}"
    parts = [
        element("polyline", points=arrow, cls="ours", stroke_width=1.5),
        element("polyline", points=f"{x + 21},{y - 4} {x + 26},{y} {x + 21},{y + 4}", cls="ours", stroke_width=1.5),
        label(x + 34, y + 4, count(len(names)), "strong"),
    ]
    at, end = x + 52 + CHARACTER * len(count(len(names))), WIDTH - 90
    for number, name in enumerate(sorted(names)):
        wide = CHARACTER * (len(name) + 2)
        if at + wide > end and number:
            told = tooltip(", ".join(sorted(names)))
            parts.append(element("text", told + escape(f"and {count(len(names) - number)} more"), x=at, y=y + 4))
            break
        text = label(at, y + 4, name if at + wide <= end else f"{name[:60]}…")
        parts.append(element("a", text, href=link(name)) if link else text)
        at += wide
    return parts
