"""Try it: an image and some tasks, and which of their blocks run once for several of them."""

from __future__ import annotations

from dataclasses import dataclass

from serving.console.listings import adapted_blocks, read_tasks, search_of
from serving.console.state import Answer, Shown, Visit
from serving.engine.row_plan import rows_at
from store.errors import FormatError
from store.records.listing import Search
from store.records.manifest import Manifest

MOST_OFFERED = 200
MOST_CHOSEN = 12


@dataclass(frozen=True)
class PlannedTask:
    """A task as the plan of a batch sees it."""

    ref: str
    depth: int
    first_block: int
    rank: int = 0
    labels: tuple[str, ...] = ()
    nbytes: int = 0


def show(visit: Visit) -> Answer:
    backbones = visit.state.backbones
    if not backbones:
        return Shown("try.html", {"can_predict": False, "tasks": (), "more": False, "chosen": None})
    search = search_of(visit)
    tasks = read_tasks(visit, Search(text=search.text, backbone=backbones[0] if len(backbones) == 1 else None))
    return Shown(
        "try.html",
        {
            "can_predict": True,
            "tasks": tasks.rows[:MOST_OFFERED],
            "more": len(tasks.rows) > MOST_OFFERED,
            "chosen": visit.text("task"),
            "most_chosen": MOST_CHOSEN,
        },
    )


def show_sharing(visit: Visit) -> Answer:
    """Show, for versions that answered one image together, how many blocks ran and how many of them were shared."""
    refs = visit.required("refs").split(",")
    if len(refs) > MOST_CHOSEN:
        raise FormatError(f"{len(refs)} versions are too many: choose at most {MOST_CHOSEN}")
    tasks = [_planned(visit, ref, visit.store.resolve(ref).manifest) for ref in refs]
    shared: dict[str, int] = dict.fromkeys(refs, 0)
    ran = 0
    for block in range(1, max(task.depth for task in tasks) + 1):
        rows = rows_at(block, tasks, [0] * len(tasks))
        ran += len(rows)
        for row in rows:
            for member in row.members if len(row.members) > 1 else ():
                shared[refs[member]] += 1
    alone = sum(task.depth for task in tasks)
    return Shown("sharing.html", {"shared": shared, "ran": ran, "alone": alone, "count": len(tasks)})


def _planned(visit: Visit, ref: str, manifest: Manifest) -> PlannedTask:
    adapted = adapted_blocks(visit, manifest)
    return PlannedTask(ref, manifest.depth, min(adapted, default=manifest.depth + 1))
