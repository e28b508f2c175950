"""The picture of a backbone: its blocks, how many tasks run each, and every task leaving at its depth."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from serving.console.listings import MOST_TASKS, read_tasks
from serving.console.state import Answer, Shown, Visit
from store.records.listing import Search, VersionListing

MOST_SHOWN = 8
"""Names of tasks beside one block; the list of tasks has the others."""

SHADES = 5


@dataclass(frozen=True)
class BlockRow:
    """A block: the tasks that run it, those that leave after it, and its shade by the share that runs it."""

    number: int
    running: int
    leaving: tuple[VersionListing, ...]
    share: float
    next_share: float

    @property
    def shade(self) -> int:
        return 0 if self.running == 0 else max(1, round(self.share * SHADES))


def show(visit: Visit) -> Answer:
    records = visit.store.backbones()
    name = visit.text("backbone")
    record = next((record for record in records if record.name == name), records[0] if records else None)
    if record is None:
        return Shown("backbone.html", {"record": None, "records": records})
    tasks = read_tasks(visit, Search(backbone=record.id.fingerprint))
    blocks = block_rows(tasks.rows, record.blocks)
    run, full = sum(row.depth for row in tasks.rows), record.blocks * len(tasks.rows)
    return Shown(
        "backbone.html",
        {
            "record": record,
            "records": records,
            "blocks": blocks,
            "total": len(tasks.rows),
            "is_complete": tasks.is_complete,
            "most": MOST_TASKS,
            "most_shown": MOST_SHOWN,
            "run": run,
            "full": full,
            "nbytes": sum(row.nbytes for row in tasks.rows),
        },
    )


def block_rows(rows: tuple[VersionListing, ...], blocks: int) -> list[BlockRow]:
    leaving: defaultdict[int, list[VersionListing]] = defaultdict(list)
    for row in rows:
        leaving[row.depth].append(row)
    running, total, made = len(rows), max(1, len(rows)), []
    for number in range(1, blocks + 1):
        left = running - len(leaving[number])
        made.append(BlockRow(number, running, tuple(leaving[number]), running / total, left / total))
        running = left
    return made
