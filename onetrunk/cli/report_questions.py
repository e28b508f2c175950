"""What may be asked of a storage report beside itself: options, and what answers them once the store is counted.

Each answer imports what it needs when it is asked for: a report without questions is made sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import OptionGroup
from onetrunk.cli.parsing import parse_duration
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from onetrunk.rendering.report_answers import Answers
    from store.accounting.costs import Costs
    from store.accounting.differences import Difference
    from store.accounting.report import Account
    from store.accounting.retention import Retention
    from store.accounting.since import Since
    from store.accounting.unasked import Unasked
    from store.accounting.usage import Usage

MOST_TASKS = 10_000
"""How many tasks a server tells of at most."""


@dataclass(frozen=True)
class Questions(OptionGroup):
    """What is asked beside the report itself."""

    keep_last: Annotated[
        int | None, typer.Option(min=0, help="Say what keeping only the last N versions of a task would free.")
    ] = None
    older_than: Annotated[
        str | None, typer.Option(help="Say what removing versions of this age would free: 90d; with --keep-last, both.")
    ] = None
    prices: Annotated[
        Path | None, typer.Option(help="Prices in TOML: what a month costs each tenant; see docs/report.md.")
    ] = None
    statistics: Annotated[
        str | None,
        typer.Option(help="Statistics of a server, its URL or a file: who asked, for how much of the engine's time."),
    ] = None
    key: Annotated[
        str | None, typer.Option(envvar="ONETRUNK_KEY", help="Secret of an operator's API key, for --statistics URL.")
    ] = None
    request_log: Annotated[
        list[Path] | None, typer.Option(help="The same from a server's log of requests; .gz too; may be repeated.")
    ] = None
    unasked_for: Annotated[
        str, typer.Option(help="List tasks that nobody asked for so long, by --statistics or --request-log.")
    ] = "90d"
    since: Annotated[str | None, typer.Option(help="Count what was published since this time: ISO 8601, UTC.")] = None
    diff: Annotated[
        Path | None, typer.Option(help="An older report, saved as JSON: say what grew since then, and why.")
    ] = None


def ask(questions: Questions) -> Callable[[Account], Answers]:
    """Read the files and the times of the questions, and return what answers them once the store is counted."""
    from onetrunk.rendering.report_answers import Answers

    keep, since, older = _ask_retention(questions), _ask_since(questions), _ask_difference(questions)
    unasked_days = parse_duration(questions.unasked_for) / 86_400
    usage = read_usage(questions)
    costs, quiet = _ask_costs(questions, usage), _ask_unasked(usage, unasked_days)
    return lambda account: Answers(
        retention=keep and keep(account),
        costs=costs and costs(account),
        unasked=quiet and quiet(account),
        since=since and since(account),
        difference=older and older(account),
    )


def _ask_retention(questions: Questions) -> Callable[[Account], Retention] | None:
    before = None if questions.older_than is None else _ago(questions.older_than)
    if questions.keep_last is None and before is None:
        return None
    from store.accounting.retention import retention

    return lambda account: retention(account, keep_last=questions.keep_last, published_before=before)


def _ask_costs(questions: Questions, usage: Usage | None) -> Callable[[Account], Costs] | None:
    if questions.prices is None:
        return None
    from store.accounting.costs import costs_of
    from store.accounting.prices import read_prices

    prices = read_prices(questions.prices)
    return lambda account: costs_of(account.report, prices, usage)


def _ask_unasked(usage: Usage | None, days: float) -> Callable[[Account], Unasked] | None:
    if usage is None:
        return None
    from store.accounting.unasked import unasked

    return lambda account: unasked(account, usage, days=days)


def _ask_since(questions: Questions) -> Callable[[Account], Since] | None:
    if not questions.since:
        return None
    from store.accounting.since import published_since
    from store.registry.read_only_store import parse_time

    since = parse_time(questions.since)
    return lambda account: published_since(account, since)


def _ask_difference(questions: Questions) -> Callable[[Account], Difference] | None:
    if questions.diff is None:
        return None
    from store.accounting.differences import compare_reports, read_report

    old = read_report(questions.diff)
    return lambda account: compare_reports(old, account.report, str(questions.diff))


def read_usage(questions: Questions) -> Usage | None:
    """Read what servers were asked, where a source of it is named."""
    if questions.statistics is not None and questions.request_log:
        raise InvalidSettingError("--statistics and --request-log would count requests twice: give one of them")
    if questions.request_log:
        from onetrunk.request_log import read_lines
        from store.accounting.usage import usage_of_log

        names = ", ".join(map(str, questions.request_log))
        return usage_of_log((line for log in questions.request_log for line in read_lines(log)), names)
    if questions.statistics is None:
        return None
    from store.accounting.usage import read_statistics, usage_of_statistics

    if not questions.statistics.startswith(("http://", "https://")):
        return read_statistics(Path(questions.statistics))
    from serving.client import Client

    with Client(questions.statistics, api_key=questions.key or None, timeout_s=10) as client:
        return usage_of_statistics(client.statistics(tasks=MOST_TASKS), questions.statistics)


def _ago(duration: str) -> str:
    """Return the time so long ago as the history writes it."""
    try:
        then = datetime.now(UTC) - timedelta(seconds=parse_duration(duration))
    except OverflowError:
        raise InvalidSettingError(f"--older-than {duration:.40} is before the year 1: give less") from None
    return then.isoformat(timespec="milliseconds")
