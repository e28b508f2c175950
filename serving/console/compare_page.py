"""Two versions of a task side by side: what differs, and both curves of accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.console.charts import accuracy_chart
from serving.console.measures import width_of
from serving.console.rendering import percent, size
from serving.console.state import Answer, Shown, Visit
from store.records.refs import Ref
from store.records.splits import AliasSplit
from store.registry.diff import Difference


def show(visit: Visit) -> Answer:
    task = Ref.parse(visit.required("task")).task
    rows = visit.store.list_versions(task)
    numbers = [row.version for row in rows]
    right = visit.number("right") or numbers[-1]
    left = visit.number("left") or max((number for number in numbers if number < right), default=right)
    aliases, splits = visit.store.aliases(task), visit.store.splits(task)
    records = {record.id.fingerprint: record for record in visit.store.backbones()}
    versions = [visit.store.resolve(f"{task}:{number}") for number in (left, right)]
    differences = visit.store.diff(f"{task}:{left}", f"{task}:{right}")
    return Shown(
        "compare.html",
        {
            "task": task,
            "numbers": numbers[::-1],
            "left": left,
            "right": right,
            "versions": versions,
            "curves": [
                accuracy_chart(version.manifest.certificate.curve, version.manifest.depth)
                if version.manifest.certificate and version.manifest.certificate.curve
                else None
                for version in versions
            ],
            "widths": [
                width_of(version.manifest.prune_index, records.get(version.manifest.backbone)) for version in versions
            ],
            "roles": [roles(number, aliases, splits) for number in (left, right)],
            "differences": _rows(differences),
        },
    )


def roles(number: int, aliases: Mapping[str, int], splits: Sequence[AliasSplit]) -> list[str]:
    """Return what the version answers for: aliases, and its part of those that are split."""
    split_of = {split.alias: split for split in splits}
    found = [alias for alias, named in aliases.items() if named == number and alias not in split_of]
    for split in splits:
        share = dict(split.shares).get(number)
        found += [f"{split.alias}, {share:g}%"] if share is not None else []
        if split.shadow is not None and split.shadow[0] == number:
            found.append(f"{split.alias}, shadow of {split.shadow[1]:g}%")
        if split.overload == number:
            found.append(f"{split.alias}, under overload")
    return found


def _rows(differences: Sequence[Difference]) -> list[tuple[str, str, str]]:
    """Return what differs as texts; a width's index only where the numbers that it keeps do not tell."""
    fields = {row.field for row in differences}
    told = {"width index"} if fields & {"heads kept", "units kept"} else set()
    told |= {"token index"} if "patches kept" in fields else set()
    return [
        (NAMES.get(row.field, row.field), _field(row.field, row.left), _field(row.field, row.right))
        for row in differences
        if row.field not in told
    ]


NAMES = {"nbytes": "size"}
SHARES = frozenset({"macro F1", "calibration error"})


def _field(field: str, value: object) -> str:
    if value is None and field in ("heads kept", "units kept"):
        return "all"
    if field == "nbytes" and isinstance(value, int):
        return size(value)
    return percent(value) if field in SHARES and isinstance(value, float) else _shown(value)


def _shown(value: object) -> str:
    """Return a JSON value as one short text."""
    if value is None or value == [] or value == ():
        return "–"
    if isinstance(value, dict) and {"correct", "total", "value"} <= value.keys():
        low, high = value["interval"]
        return f"{value['value']:.1%} ({value['correct']} of {value['total']}; {low:.1%} to {high:.1%})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_shown(item) for item in value[:12])
        return shown + (f" and {len(value) - 12} more" if len(value) > 12 else "")
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
