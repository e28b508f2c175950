"""The picture of a backbone: its blocks, what load each has, and every task leaving at its depth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from starlette.concurrency import run_in_threadpool

from serving.console.listings import MOST_TASKS, read_tasks
from serving.console.state import Answer, Shown, Visit
from store.records.listing import Search, VersionListing

MOST_SHOWN = 8
"""Names of tasks beside one block; the list of tasks has the others."""

SHADES = 5


@dataclass(frozen=True)
class BlockRow:
    """A block: the tasks that run it, those that leave after it, and the share of answers, or of tasks, that ran it."""

    number: int
    running: int
    leaving: tuple[VersionListing, ...]
    share: float
    next_share: float
    load: float

    @property
    def shade(self) -> int:
        return 0 if self.load == 0 else max(1, round(self.load * SHADES))

    @property
    def outline(self) -> str:
        """The block as a polygon in a box of 100 by 40; its lower edge is as wide as what goes on."""
        above, below = 50 * self.share, 50 * (self.next_share or self.share)
        corners = ((50 - above, 0), (50 + above, 0), (50 + below, 40), (50 - below, 40))
        return " ".join(f"{x:.2f},{y}" for x, y in corners)


async def show(visit: Visit) -> Answer:
    statistics = None if visit.state.statistics is None else await visit.state.statistics(visit.store)
    return await run_in_threadpool(_show, visit, statistics or {})


def _show(visit: Visit, statistics: Mapping[str, object]) -> Answer:
    records = visit.store.backbones()
    name = visit.text("backbone")
    served = next((record for record in records if record.id.fingerprint in visit.state.backbones), None)
    record = next((record for record in records if record.name == name), served or (records[0] if records else None))
    if record is None:
        return Shown("backbone.html", {"record": None, "records": records})
    tasks = read_tasks(visit, Search(backbone=record.id.fingerprint))
    answers = answers_by_depth(statistics, tasks.rows) if record is served else Counter()
    run, full = sum(row.depth for row in tasks.rows), record.blocks * len(tasks.rows)
    return Shown(
        "backbone.html",
        {
            "record": record,
            "records": records,
            "blocks": block_rows(tasks.rows, record.blocks, answers),
            "answers": answers.total(),
            "total": len(tasks.rows),
            "is_complete": tasks.is_complete,
            "most": MOST_TASKS,
            "most_shown": MOST_SHOWN,
            "run": run,
            "full": full,
            "nbytes": sum(row.nbytes for row in tasks.rows),
        },
    )


def answers_by_depth(statistics: Mapping[str, object], rows: Sequence[VersionListing]) -> Counter[int]:
    """Return how many answers left at each depth: the engine's own count, or that of a tenant's busiest tasks."""
    engine = cast(Mapping[str, Mapping[str, int]] | None, statistics.get("engine"))
    if engine is not None:
        return Counter({int(depth): count for depth, count in engine["answers_by_depth"].items()})
    answers: Counter[int] = Counter()
    depths = {row.task: row.depth for row in rows}
    for task in cast(Sequence[Mapping[str, object]], statistics.get("tasks", ())):
        if task["task"] in depths:
            answers[depths[task["task"]]] += cast(int, task["answers"])
    return answers


def block_rows(rows: Sequence[VersionListing], blocks: int, answers: Counter[int]) -> list[BlockRow]:
    leaving: defaultdict[int, list[VersionListing]] = defaultdict(list)
    for row in rows:
        leaving[row.depth].append(row)
    running, total, answered, made = len(rows), max(1, len(rows)), answers.total(), []
    for number in range(1, blocks + 1):
        left = running - len(leaving[number])
        through = sum(count for depth, count in answers.items() if depth >= number)
        load = through / answered if answered else running / total
        made.append(BlockRow(number, running, tuple(leaving[number]), running / total, left / total, load))
        running = left
    return made
