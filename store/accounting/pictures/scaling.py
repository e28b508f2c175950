"""The number of tasks against bytes: this store beside every other form, on log axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from store.accounting.counterfactuals import Comparison
from store.accounting.pictures.drawing import Picture, canvas, element, label, line, tooltip
from store.accounting.pictures.scales import count, log_ticks, size, spread
from store.accounting.pictures.style import DASHES, SERIES
from store.accounting.report import StorageReport

WIDTH, HEIGHT = 860, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 250, 24, 52
POINTS = 48
Place = Callable[[float], float]
LEAST_MOST = 1000  # tasks, the right end of the axis where the store has fewer than a tenth of it
SHORT: Mapping[str, str] = {
    "full_copies_fp32": "full copies, float32",
    "full_copies_serving_dtype": "full copies, bfloat16",
    "pruned_copies": "pruned copies, stored whole",
    "depgraph_copies": "pruned as DepGraph's ViT-B",
    "pruned_index": "pruning kept as an index",
    "deduplicated_copies": "copies, tensors deduplicated",
    "uncut_adapters": "adapters without the cut",
    "paper_sum": "the paper's sum S",
}


@dataclass(frozen=True)
class _Curve:
    """Bytes of K tasks: fixed + K slope; `number` is None for this store."""

    name: str
    title: str
    fixed: float
    slope: float
    number: int | None

    def at(self, tasks: float) -> float:
        return self.fixed + tasks * self.slope


def scaling(report: StorageReport) -> Picture:
    """Draw bytes for 1 to at least 1,000 tasks, each like the mean of those that are here."""
    compared = report.comparison
    curves = _curves(compared)
    most = 10.0 ** math.ceil(math.log10(max(LEAST_MOST, 2 * compared.tasks)))
    title = "Bytes against the number of tasks"
    text = (
        f"Each further task takes as much as the mean of the {count(compared.tasks)} tasks of this store. "
        "This store counts every file, and backbones that lie elsewhere."
    )
    parts = _plot(curves, compared, most) if curves else [label(LEFT, TOP + 20, "no task to compare yet", "muted")]
    svg = canvas("scaling", title, text, parts, width=WIDTH, height=HEIGHT)
    return Picture("scaling", title, text, svg, _rows(curves, most))


def _curves(compared: Comparison) -> list[_Curve]:
    tasks = compared.tasks
    if not tasks:
        return []
    forms = compared.forms
    curves = [
        _Curve(form.name, SHORT[form.name], form.fixed_nbytes, (form.nbytes - form.fixed_nbytes) / tasks, number)
        for number, form in enumerate(forms)
    ]
    ours = (compared.nbytes - compared.fixed_nbytes) / tasks
    return [*curves, _Curve("this_store", "this store", compared.fixed_nbytes, ours, None)]


def _rows(curves: Sequence[_Curve], most: float) -> list[dict[str, object]]:
    steps = [step * 10**power for power in range(int(math.log10(most))) for step in (1, 2, 5)] + [int(most)]
    return [
        {"tasks": tasks, **{f"{curve.name}_nbytes": round(curve.at(tasks)) for curve in curves}}
        for tasks in steps
        if curves
    ]


def _plot(curves: Sequence[_Curve], compared: Comparison, most: float) -> list[str]:
    ticks = log_ticks(min(curve.at(1) for curve in curves), max(curve.at(most) for curve in curves))
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])

    def x_of(tasks: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(tasks) / math.log10(most)

    def y_of(nbytes: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (math.log10(max(nbytes, 1)) - low) / (high - low)

    parts = [line(LEFT, y_of(tick), WIDTH - RIGHT, y_of(tick), "grid") for tick in ticks]
    parts += [label(LEFT - 8, y_of(tick) + 4, size(tick), "muted end") for tick in ticks]
    for tick in log_ticks(1, most):
        parts.append(line(x_of(tick), HEIGHT - BOTTOM, x_of(tick), HEIGHT - BOTTOM + 5, "axis"))
        parts.append(label(x_of(tick), HEIGHT - BOTTOM + 19, count(tick), "muted mid"))
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "number of tasks", "muted mid"))
    here = x_of(compared.tasks)
    parts.append(element("line", x1=here, y1=TOP, x2=here, y2=HEIGHT - BOTTOM, cls="axis", stroke_dasharray="2 4"))
    parts.append(label(here + 5, TOP + 10, f"now: {count(compared.tasks)}", "muted halo"))
    ends = spread([y_of(curve.at(most)) for curve in curves], least=16, low=TOP, high=HEIGHT - BOTTOM)
    for curve, end in zip(curves, ends, strict=True):
        xs = [10 ** (math.log10(most) * step / POINTS) for step in range(POINTS + 1)]
        path = " ".join(f"{x_of(x):.1f},{y_of(curve.at(x)):.1f}" for x in xs)
        parts += _curve(curve, path, end, y_of(curve.at(most)), most)
    return parts + [_crossing(form.break_even_tasks, curves[-1], x_of, y_of, most) for form in compared.forms]


def _curve(curve: _Curve, path: str, label_y: float, end_y: float, most: float) -> list[str]:
    ours, right = curve.number is None, WIDTH - RIGHT
    number = (curve.number or 0) % SERIES
    told = tooltip(f"{curve.title}: {size(curve.at(most))} for {count(most)} tasks")
    text = f"{curve.title}  {size(curve.at(most))}"
    return [
        element(
            "polyline",
            told,
            points=path,
            cls="ours" if ours else f"s{number}",
            stroke_width=3.5 if ours else 1.8,
            stroke_dasharray=None if ours or not DASHES[number] else DASHES[number],
        ),
        element("polyline", points=f"{right},{end_y:.1f} {right + 14},{label_y:.1f}", cls=_stroke(curve)),
        label(right + 18, label_y + 4, text, "strong" if ours else None),
    ]


def _stroke(curve: _Curve) -> str:
    return "ours" if curve.number is None else f"s{curve.number % SERIES}"


def _crossing(tasks: int | None, ours: _Curve, x_of: Place, y_of: Place, most: float) -> str:
    """Mark the number of tasks from which this store takes less."""
    if tasks is None or not 1 < tasks <= most:
        return ""
    told = tooltip(f"from {count(tasks)} tasks on, this store takes less")
    return element("circle", told, cx=x_of(tasks), cy=y_of(ours.at(tasks)), r=3.5, cls="ours-fill")
