"""Storage: what every byte is for, to those who see the whole store; to a tenant, the bytes of its own tasks."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from serving.console.listings import MOST_TASKS, read_tasks
from serving.console.rendering import plain
from serving.console.state import Answer, File, Shown, Visit
from serving.console.storage_source import StorageSource
from store.accounting.rows import Places
from store.accounting.unasked import unasked
from store.accounting.usage import usage_of_statistics
from store.errors import NotFoundError
from store.records.listing import Search

MOST_ROWS = 20
UNASKED_DAYS, MOST_UNASKED = 90, 10
KINDS = {
    "live": "referenced by a version or a backbone",
    "reclaimable": "unreferenced: garbage collections free it",
    "garbage": "files that do not belong to the store, and what is in quarantine",
    "overhead": "catalogue, journal and identity",
}


@dataclass(frozen=True)
class Part:
    """A part of all bytes: where its bar begins and how long it is, in percent."""

    kind: str
    text: str
    nbytes: int
    start: float
    length: float


async def show(visit: Visit) -> Answer:
    if visit.state.storage is None or not visit.sees_all:
        return await run_in_threadpool(_own, visit)
    counted = None if visit.state.requests is None else await visit.state.requests(visit.store)
    return await run_in_threadpool(_whole, visit, visit.state.storage, counted)


def _whole(visit: Visit, storage: StorageSource, counted: Mapping[str, object] | None) -> Answer:
    dated = storage.report(again=visit.text("again") == "1")
    report = dated.report
    usage = None if counted is None else usage_of_statistics(counted, "the statistics of this server")
    return Shown(
        "storage.html",
        {
            "report": report,
            "at": dated.at,
            "problems": [f"{each.subject}: {plain(each.problem)}" for each in report.problems[:MOST_ROWS]],
            "parts": _parts(report.places),
            "copies": report.comparison.form("full_copies_fp32").nbytes if report.tasks else 0,
            # Markup of our own making, in which every name is escaped.
            "pictures": [(picture, Markup(picture.svg)) for picture in dated.pictures],
            "unasked": None if usage is None else unasked(dated.account, usage, days=UNASKED_DAYS),
            "most_unasked": MOST_UNASKED,
            "tenants": [group for group in report.groups if group.by == "tenant"][:MOST_ROWS],
        },
    )


def show_data(visit: Visit) -> Answer:
    """Answer the data behind a picture as CSV."""
    name = visit.required("name")
    if visit.state.storage is not None and visit.sees_all:
        for picture in visit.state.storage.report().pictures:
            if picture.name == name:
                out = io.StringIO()
                writer = csv.DictWriter(out, list(picture.rows[0]) if picture.rows else [], lineterminator="\n")
                writer.writeheader()
                writer.writerows(picture.rows)
                return File(f"{name}.csv", "text/csv", out.getvalue())
    raise NotFoundError(f"no picture {name[:40]!r}: the storage page has links to those that there are")


def _own(visit: Visit) -> Answer:
    tasks = read_tasks(visit, Search())
    rows = sorted(tasks.rows, key=lambda row: row.nbytes, reverse=True)
    return Shown(
        "storage_own.html",
        {
            "total": sum(row.nbytes for row in rows),
            "count": len(rows),
            "largest": rows[:MOST_ROWS],
            "whole": max((row.nbytes for row in rows), default=1),
            "is_complete": tasks.is_complete,
            "most": MOST_TASKS,
        },
    )


def _parts(places: Places) -> list[Part]:
    start, parts = 0.0, []
    for kind, text in KINDS.items():
        nbytes: int = getattr(places, f"{kind}_nbytes")
        length = 100 * nbytes / max(1, places.physical_nbytes)
        parts.append(Part(kind, text, nbytes, start, length))
        start += length
    return parts
