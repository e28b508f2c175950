"""The list of tasks: search, filters, order, pages."""

from __future__ import annotations

import urllib.parse

from serving.console.listings import MOST_TASKS, SORTS, read_tasks, search_of
from serving.console.state import Answer, Shown, Visit

PAGE = 50
FIELDS = ("q", "tenant", "alias", "tag", "method", "backbone", "depth", "sort", "order")


def show(visit: Visit) -> Answer:
    search = search_of(visit)
    tasks = read_tasks(visit, search)
    depth = visit.number("depth")
    rows = [row for row in tasks.rows if depth is None or row.depth == depth]
    sort = visit.text("sort") if visit.text("sort") in SORTS else "task"
    descending = visit.text("order") == "desc"
    rows.sort(key=SORTS[sort or "task"], reverse=descending)
    pages = max(1, -(-len(rows) // PAGE))
    page = min(visit.number("page") or 1, pages)
    filters = [name for name in ("q", "tenant", "alias", "tag", "method", "backbone", "depth") if visit.text(name)]
    return Shown(
        "tasks.html",
        {
            "rows": rows[(page - 1) * PAGE : page * PAGE],
            "total": len(rows),
            "first": (page - 1) * PAGE,
            "page": page,
            "pages": pages,
            "sort": sort,
            "descending": descending,
            "filters": filters,
            "is_complete": tasks.is_complete,
            "most": MOST_TASKS,
            "methods": sorted({row.method for row in tasks.rows} | ({search.method} if search.method else set())),
            "backbones": [record.name for record in visit.store.backbones()],
            "link": lambda **changes: _link(visit, changes),
        },
    )


def _link(visit: Visit, changes: dict[str, object]) -> str:
    """Return the query of this page with some fields changed; a change to None takes the field away."""
    fields = {name: visit.text(name) for name in FIELDS} | changes
    return urllib.parse.urlencode({name: value for name, value in fields.items() if value is not None})
