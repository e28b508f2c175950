"""What grew between an older report and now, and why: the reasons add up to the change, to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.accounting.given_file import read_given
from store.accounting.report import REPORT_FORMAT, StorageReport
from store.errors import FormatError, NewerFormatError

MAX_NBYTES = 1 << 30  # a report of a million versions takes half of it
REMEDY = "save one with `storage_report(store)` as JSON"


@dataclass(frozen=True)
class Reason:
    """A part of the change: what it is about, what happened there, and the bytes."""

    what: str
    subject: str
    why: str
    change_nbytes: int


@dataclass(frozen=True)
class Difference:
    """The physical bytes before and after, and reasons, the largest change first, that add up to what lies between."""

    same_store: bool
    before_nbytes: int
    after_nbytes: int
    change_nbytes: int
    reasons: tuple[Reason, ...]


def read_report(path: Path) -> Mapping[str, Any]:
    """Return a report's JSON, or raise where the file has none that can be compared."""
    data = read_given(
        path,
        limit=MAX_NBYTES,
        missing="name a report that was saved as JSON",
        too_large=f": no report of a store; {REMEDY}",
    )
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    number = value.get("format") if isinstance(value, dict) else None
    if type(number) is not int or not isinstance(value, dict):
        raise FormatError(f"{path} is not a report: {REMEDY}")
    if number > REPORT_FORMAT:
        raise NewerFormatError(
            f"{path} has format {number}, this onetrunk reads up to {REPORT_FORMAT}: upgrade onetrunk"
        )
    if number < REPORT_FORMAT:
        raise FormatError(f"{path} has format {number}, which lacks what a comparison needs: {REMEDY}")
    return value


def compare_reports(old: Mapping[str, Any], new: StorageReport, source: str = "the older report") -> Difference:
    """Explain the change from an older report's JSON to a report."""
    value = new.to_json()
    try:
        before, after = _Sizes.of(old), _Sizes.of(value)
        same = old["store"] == new.store
    except (KeyError, TypeError, AttributeError):
        raise FormatError(f"{source} lacks a key that a report has: {REMEDY}") from None
    reasons = [reason for reason in _reasons(before, after) if reason.change_nbytes or reason.why]
    change = after.physical - before.physical
    assert change == sum(reason.change_nbytes for reason in reasons)
    ordered = sorted(reasons, key=lambda reason: (-abs(reason.change_nbytes), reason.what, reason.subject))
    return Difference(same, before.physical, after.physical, change, tuple(ordered))


@dataclass(frozen=True)
class _Sizes:
    """A report as parts that add up to the physical bytes: tasks' own blobs, shared ones, backbones, the rest."""

    physical: int
    tasks: Mapping[str, int]
    numbers: Mapping[str, frozenset[int]]
    backbones: Mapping[str, int]
    rest: Mapping[str, int]

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> _Sizes:
        places = report["places"]
        tasks = {row["task"]: _count(row["unique_nbytes"]) for row in report["tasks"]}
        numbers: dict[str, set[int]] = {task: set() for task in tasks}
        for row in report["versions"]:
            numbers[row["task"]].add(row["version"])
        backbones = {row["name"]: _count(row["stored_nbytes"]) for row in report["backbones"]}
        shared = _count(places["live_nbytes"]) - sum(tasks.values()) - sum(backbones.values())
        rest = {kind: _count(places[f"{kind}_nbytes"]) for kind in ("reclaimable", "garbage", "overhead")}
        frozen = {task: frozenset(found) for task, found in numbers.items()}
        return cls(_count(places["physical_nbytes"]), tasks, frozen, backbones, {"shared": shared, **rest})


def _count(value: object) -> int:
    if type(value) is not int:
        raise TypeError(value)
    return value


def _reasons(before: _Sizes, after: _Sizes) -> Iterator[Reason]:
    for task in sorted(before.tasks.keys() | after.tasks.keys()):
        change = after.tasks.get(task, 0) - before.tasks.get(task, 0)
        yield Reason("task", task, _versions(before, after, task), change)
    for name in sorted(before.backbones.keys() | after.backbones.keys()):
        change = after.backbones.get(name, 0) - before.backbones.get(name, 0)
        words = "added" if name not in before.backbones else "removed" if name not in after.backbones else ""
        yield Reason("backbone", name, words, change)
    for kind, words in WORDS.items():
        yield Reason(
            kind, "", words if after.rest[kind] != before.rest[kind] else "", after.rest[kind] - before.rest[kind]
        )


WORDS = {
    "shared": "blobs that several tasks reference",
    "reclaimable": "blobs that nothing references until they are collected or restored",
    "garbage": "files that do not belong to the store, orphaned temporary files, quarantine",
    "overhead": "catalogue, journal and identity",
}


def _versions(before: _Sizes, after: _Sizes, task: str) -> str:
    old, new = before.numbers.get(task, frozenset()), after.numbers.get(task, frozenset())
    words = ["new task"] if not old else ["task removed"] if not new else []
    words += [f"{len(new - old)} versions published"] if new - old else []
    words += [f"{len(old - new)} versions removed"] if old - new else []
    return ", ".join(words)
