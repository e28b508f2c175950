"""What servers were asked: which tasks, when last, and the engine's time by tenant, from statistics or from logs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from store.accounting.given_file import read_given
from store.errors import FormatError, InvalidSettingError
from store.registry.read_only_store import parse_time

STATISTICS_FORMAT = 1
REST = "(other)"
"""Where a server puts what it does not count by name."""
FULL = 100  # tasks of statistics that do not say how many they left out: then there may be more
MAX_NBYTES = 1 << 26
REMEDY = "save what `GET /v1/statistics?tasks=10000` answers to a key of the operator"


@dataclass(frozen=True)
class TaskUse:
    """How many images a task answered, and when it was asked last."""

    answers: int
    last_at: str


@dataclass(frozen=True)
class Usage:
    """What was asked from `since` to `until`, which is all that is known.

    Every task that was asked is in `tasks` where `is_complete`. Block-seconds are the engine's, by who asked;
    `cpu_seconds` are the processor time of the servers, None where it is not known. `passed_over` lines were no
    requests that a server logged.
    """

    source: str
    since: str
    until: str
    tasks: Mapping[str, TaskUse]
    block_seconds: Mapping[str, Decimal]
    cpu_seconds: Decimal | None = None
    is_complete: bool = True
    passed_over: int = 0


def read_statistics(path: Path) -> Usage:
    """Read a file that has what `GET /v1/statistics` answered."""
    data = read_given(path, limit=MAX_NBYTES, missing=REMEDY, too_large=f": no statistics of a server; {REMEDY}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    return usage_of_statistics(value, str(path))


def usage_of_statistics(value: object, source: str) -> Usage:
    """Read what `GET /v1/statistics` answered; its counts begin where the replica began that started last."""
    if isinstance(value, Mapping) and value.get("tenant") is not None:
        raise FormatError(f"{source} is of tenant {str(value['tenant'])[:60]} alone: {REMEDY}")
    try:
        if not isinstance(value, Mapping) or value["format"] != STATISTICS_FORMAT:
            raise TypeError
        replicas: Sequence[Mapping[str, Any]] = value["replicas"]
        rows: Sequence[Mapping[str, Any]] = value["tasks"]
        tasks = {str(row["task"]): TaskUse(_count(row["answers"]), parse_time(row["last_at"])) for row in rows}
        return Usage(
            source=source,
            since=max(parse_time(replica["started_at"]) for replica in replicas),
            until=parse_time(value["at"]),
            tasks=tasks,
            block_seconds={str(row["tenant"]): _seconds(row["block_seconds"]) for row in value["tenants"]},
            cpu_seconds=sum((_seconds(replica["cpu_s"]) for replica in replicas), Decimal(0)),
            is_complete=not (_left_out(value, rows) or REST in tasks or _count(value["replicas_missing"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, InvalidSettingError):
        raise FormatError(f"{source} has no statistics of a server: {REMEDY}") from None


def usage_of_log(lines: Iterable[object], source: str) -> Usage:
    """Count the requests in lines of a server's log, each a JSON value; lines of other requests are passed over."""
    answers: defaultdict[str, int] = defaultdict(int)
    last: dict[str, str] = {}
    block_seconds: defaultdict[str, Decimal] = defaultdict(Decimal)
    since, until, passed_over = "", "", 0
    for line in lines:
        try:
            at, tenant, images, seconds, named = _request(line)
        except (KeyError, TypeError, ValueError, InvalidSettingError):
            passed_over += 1
            continue
        since, until = min(since or at, at), max(until, at)
        block_seconds[tenant] += seconds
        for task in named:
            answers[task] += images
            last[task] = max(last.get(task, ""), at)
    if not since:
        raise FormatError(f"{source} has no line that a server wrote of a request: give the file of `log=`")
    tasks = {task: TaskUse(answers[task], at) for task, at in sorted(last.items())}
    return Usage(source, since, until, tasks, dict(sorted(block_seconds.items())), passed_over=passed_over)


def _request(line: object) -> tuple[str, str, int, Decimal, set[str]]:
    """Return when a request came and whose it was, its answered images, its block-seconds, and the tasks it asked for.

    Only predictions have images; a request for a task's page names the task, and does not ask for it.
    """
    if not isinstance(line, Mapping):
        raise TypeError(line)
    at, tenant = parse_time(line["time"]), str(line["tenant"])
    if "images" not in line:
        return at, tenant, 0, Decimal(0), set()
    named = line.get("answers") or ([line] if "task" in line else [])
    tasks = {str(answer["task"]) for answer in named}
    images = _count(line["images"]) if line["status"] == 200 else 0
    return at, tenant, images, _seconds(line["block_seconds"]), tasks


def _left_out(value: Mapping[str, Any], rows: Sequence[object]) -> bool:
    return _count(value["tasks_left_out"]) > 0 if "tasks_left_out" in value else len(rows) == FULL


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _seconds(value: object) -> Decimal:
    if type(value) not in (int, float):
        raise TypeError(value)
    try:
        seconds = Decimal(str(value))
    except InvalidOperation:
        raise TypeError(value) from None
    if not seconds.is_finite() or seconds < 0:
        raise TypeError(value)
    return seconds
