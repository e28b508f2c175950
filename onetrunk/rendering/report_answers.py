"""Answers that a storage report gives on request, as sections: retention, costs, requests, what is new, what grew."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from onetrunk.rendering.section import Section
from onetrunk.rendering.storage_report import NO_TENANT
from onetrunk.rendering.tables import Record

if TYPE_CHECKING:
    from store.accounting.costs import Costs
    from store.accounting.differences import Difference
    from store.accounting.report import StorageReport
    from store.accounting.retention import Retention
    from store.accounting.since import Since
    from store.accounting.unasked import Unasked

MOST = 50
MOST_UNASKED = 10


@dataclass(frozen=True)
class Answers:
    """What was asked for beside the report; None where it was not."""

    retention: Retention | None = None
    costs: Costs | None = None
    unasked: Unasked | None = None
    since: Since | None = None
    difference: Difference | None = None

    def sections(self) -> list[Section]:
        made = (
            self.difference and _difference(self.difference),
            self.since and _since(self.since),
            self.unasked and _unasked(self.unasked),
            self.retention and _retention(self.retention),
            self.costs and _costs(self.costs),
        )
        return [section for section in made if section]

    def to_json(self) -> dict[str, object]:
        values = {name: value for name, value in vars(self).items() if value is not None}
        return {name: _plain(asdict(value)) for name, value in values.items()}

    def rows(self, report: StorageReport) -> dict[str, list[Record]]:
        """Return tables by the names that `--rows` takes, without those that were not asked for."""
        tables: dict[str, list[Record]] = {}
        if self.retention is not None:
            tables["retention"] = [vars(task) for task in self.retention.tasks]
        if self.unasked is not None:
            tables["unasked"] = [vars(task) for task in self.unasked.tasks]
        if self.costs is not None:
            from store.accounting.costs import focus_rows

            tables["tenants"] = [vars(row) for row in self.costs.tenants]
            tables["charges"] = list(focus_rows(self.costs, report))
        if self.since is not None:
            tables["since"] = [vars(task) for task in self.since.by_task]
        if self.difference is not None:
            tables["reasons"] = [vars(reason) for reason in self.difference.reasons]
        return tables


def _retention(found: Retention) -> Section:
    rules = [f"all but the last {found.keep_last} versions of each task"] * (found.keep_last is not None)
    rules += [f"published before {found.published_before}"] * (found.published_before is not None)
    text = (
        f"A dry run, nothing was removed. Of {', '.join(rules)}: {found.versions} versions would go, and a collection "
        f"would then free {found.freed_nbytes} B; {found.held} stay, because an alias or a lease holds them."
    )
    rows: list[Record] = [vars(task) for task in found.tasks[:MOST]]
    return Section("What retention would free", text + _more(len(found.tasks)), rows)


def _costs(costs: Costs) -> Section:
    text = (
        f"A month at the present size costs {costs.cost} {costs.currency}: {costs.storage_nbytes} B of storage, each "
        "tenant's own and a share of what is common in proportion to it"
    )
    text += f", and {costs.resident_nbytes} B in memory for 730 hours." if costs.resident_nbytes else "."
    rows: list[Record] = [{**vars(row), "tenant": row.tenant or NO_TENANT} for row in costs.tenants]
    return Section("What it costs", f"{text} {_engine_time(costs)}", rows)


def _engine_time(costs: Costs) -> str:
    if costs.block_seconds is None:
        return "Processor time is not in it: that needs a price of it, and a server's statistics or log."
    cores = f"{costs.cores} cores" if costs.cores > 1 else "one core"
    text = (
        f"Processor time is what was used from {costs.used_since} to {costs.used_until}: {costs.block_seconds} "
        f"block-seconds of an engine with {cores}"
    )
    if costs.cpu_seconds is None:
        return f"{text}."
    return f"{text}; with all else the servers used {costs.cpu_seconds} s of processor time since they started."


def _unasked(found: Unasked) -> Section:
    text = f"{len(found.tasks)} tasks were not asked for in the {found.days:g} days before {found.until}"
    if not found.covers:
        text = f"{len(found.tasks)} tasks were not asked for since {found.since}; of earlier requests nothing is known"
    text += f" ({found.source}). Removing them all would free {found.freed_nbytes} B."
    text += f" Of {found.unknown} more tasks the servers' counts say nothing." if found.unknown else ""
    text += f" The {MOST_UNASKED} that would free most." if len(found.tasks) > MOST_UNASKED else ""
    rows: list[Record] = [vars(task) for task in found.tasks[:MOST_UNASKED]]
    return Section("What nobody asked for", text, rows)


def _since(since: Since) -> Section:
    text = (
        f"Since {since.since}: {since.versions} versions of {since.tasks} tasks, whose own blobs take "
        f"{since.added_nbytes} B."
    )
    rows: list[Record] = [vars(task) for task in since.by_task[:MOST]]
    return Section("What is new", text + _more(len(since.by_task)), rows)


def _difference(found: Difference) -> Section:
    other = "" if found.same_store else " The older report is of another store."
    text = f"{found.change_nbytes:+} B: from {found.before_nbytes} B to {found.after_nbytes} B.{other}"
    rows: list[Record] = [vars(reason) for reason in found.reasons[:MOST]]
    return Section("What grew, and why", text + _more(len(found.reasons)), rows)


def _more(number: int) -> str:
    return f" The first {MOST} of {number:,}." * (number > MOST)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return f"{value:f}" if isinstance(value, Decimal) else value
