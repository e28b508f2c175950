"""Growth over time: bytes, and below them versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from store.accounting.pictures.drawing import Picture, canvas, element, label, line, tooltip
from store.accounting.pictures.scales import count, iso, linear_ticks, seconds, size, time_label
from store.accounting.report import StorageReport
from store.accounting.rows import GrowthPoint

WIDTH, LEFT, RIGHT = 860, 80, 20
PANELS = ((30, 200), (250, 340))  # top and bottom of bytes and of versions
LENGTH_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "month": 30.4 * 86400}
TIME_LABELS = 6


def growth_chart(report: StorageReport) -> Picture:
    title = "Growth over time"
    unsized = max((point.unsized for point in report.growth), default=0)
    text = f"Bytes that versions and backbones referenced, and versions, at the end of each {report.period}."
    if unsized:
        text += f" Up to {count(unsized)} versions that have been purged since have no size."
    parts = _draw(report.growth, report.period) if report.growth else [label(LEFT, 50, "no history yet", "muted")]
    svg = canvas("growth", title, text, parts, width=WIDTH, height=376)
    return Picture("growth", title, text, svg, [point._asdict() for point in report.growth])


def _draw(points: Sequence[GrowthPoint], period: str) -> list[str]:
    first = seconds(points[0].at)
    last = max(seconds(points[-1].at) + LENGTH_S[period], first + 1)

    def x_of(second: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (second - first) / (last - first)

    parts = []
    labels = min(TIME_LABELS, max(1, int((last - first) / LENGTH_S[period])))  # else some would be the same
    for step in range(labels + 1):
        second = first + (last - first) * step / labels
        side = "end" if step == labels else "mid" if step else None
        parts.append(line(x_of(second), PANELS[1][1], x_of(second), PANELS[1][1] + 5, "axis"))
        parts.append(label(x_of(second), PANELS[1][1] + 20, time_label(iso(second), period), f"muted {side or ''}"))
    edges = [x_of(seconds(point.at)) for point in points] + [x_of(last)]
    parts += _panel(points, edges, PANELS[0], [point.live_nbytes for point in points], size, "f0", "bytes")
    parts += _panel(points, edges, PANELS[1], [point.versions for point in points], count, "f2", "versions")
    return parts


def _panel(
    points: Sequence[GrowthPoint],
    edges: Sequence[float],
    panel: tuple[int, int],
    values: Sequence[int],
    shown: Callable[[float], str],
    fill: str,
    what: str,
) -> list[str]:
    """Draw one quantity as steps: each value from its period to the next at which something happened."""
    top, bottom = panel
    ticks = linear_ticks(max(values), about=4 if bottom - top > 120 else 2)
    scale = (bottom - top) / ticks[-1]
    parts = [line(LEFT, bottom - tick * scale, WIDTH - RIGHT, bottom - tick * scale, "grid") for tick in ticks]
    parts += [label(LEFT - 8, bottom - tick * scale + 4, shown(tick), "muted end") for tick in ticks]
    parts.append(label(LEFT, top - 10, what, "strong"))
    for number, (point, value) in enumerate(zip(points, values, strict=True)):
        told = tooltip(f"{point.at[:16].replace('T', ' ')}: {shown(value)}" + (" of " + what) * (what == "bytes"))
        width = max(1.0, edges[number + 1] - edges[number] + 0.3)
        y = bottom - value * scale
        parts.append(element("rect", told, x=edges[number], y=y, width=width, height=bottom - y, cls=fill))
    return parts
