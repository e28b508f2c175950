"""Storage: what every byte is for, to those who see the whole store; to a tenant, the bytes of its own tasks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from serving.console.listings import MOST_TASKS, read_tasks
from serving.console.state import Answer, Shown, Visit
from store.maintenance.report import StorageReport
from store.records.listing import Search

MOST_ROWS = 10
KINDS = {
    "live": "referenced by a version or a backbone",
    "reclaimable": "unreferenced: the next garbage collections free it",
    "garbage": "files that do not belong to the store, and what is in quarantine",
    "overhead": "catalogue, journal and identity",
}
FORMS = {
    "full_copies_fp32": "A full copy for each task, float32",
    "full_copies_serving_dtype": "A full copy for each task, 2 bytes a parameter",
    "pruned_copies": "A copy cut to each task's depth, float32",
    "deduplicated_copies": "Full float32 copies, equal tensors stored once",
}


@dataclass(frozen=True)
class Bar:
    """A bar of a picture: where it begins and how long it is, in percent."""

    name: str
    nbytes: int
    start: float
    length: float
    kind: str = ""


def show(visit: Visit) -> Answer:
    if visit.state.storage is None or not visit.sees_all:
        return _own(visit)
    dated = visit.state.storage.report(again=visit.text("again") == "1")
    report = dated.report
    return Shown(
        "storage.html",
        {
            "report": report,
            "at": dated.at,
            "kinds": KINDS,
            "parts": _parts(report),
            "forms": _forms(report),
            "largest": sorted(report.tasks, key=_nbytes, reverse=True)[:MOST_ROWS],
            "whole": max((_nbytes(task) for task in report.tasks), default=1),
        },
    )


def _own(visit: Visit) -> Answer:
    tasks = read_tasks(visit, Search())
    rows = sorted(tasks.rows, key=lambda row: row.nbytes, reverse=True)
    return Shown(
        "storage_own.html",
        {
            "total": sum(row.nbytes for row in rows),
            "count": len(rows),
            "largest": rows[: 2 * MOST_ROWS],
            "whole": max((row.nbytes for row in rows), default=1),
            "is_complete": tasks.is_complete,
            "most": MOST_TASKS,
        },
    )


def _nbytes(task: object) -> int:
    return task.payload_nbytes + task.header_nbytes + task.manifest_nbytes  # type: ignore[attr-defined, no-any-return]


def _parts(report: StorageReport) -> list[Bar]:
    start, bars = 0.0, []
    for kind, text in KINDS.items():
        nbytes = getattr(report, f"{kind}_nbytes")
        length = 100 * nbytes / max(1, report.total_nbytes)
        bars.append(Bar(text, nbytes, start, length, kind))
        start += length
    return bars


def _forms(report: StorageReport) -> list[Bar]:
    """Return this store and the other forms on a logarithmic axis that begins a tenth below the smallest."""
    forms = {"This store, all files": report.total_nbytes}
    forms |= {FORMS.get(key, key.replace("_", " ")): value for key, value in asdict(report.counterfactuals).items()}
    logs = {name: math.log10(max(1, nbytes)) for name, nbytes in forms.items()}
    low = min(logs.values()) - 1
    span = max(logs.values()) - low
    return [
        Bar(name, forms[name], 0, 100 * (value - low) / span, "own" if index == 0 else "")
        for index, (name, value) in enumerate(logs.items())
    ]
