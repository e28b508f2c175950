"""The command that accounts for every byte of a store."""

from __future__ import annotations

import enum
import gc
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import OptionGroup, StoreOptions, with_groups, with_store
from onetrunk.cli.options import command_group, example
from onetrunk.cli.output import log_to_stderr, print_table
from onetrunk.cli.parsing import parse_duration
from onetrunk.rendering.tables import Record, to_csv, to_markdown
from store.errors import ConflictError, InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onetrunk.rendering.report_answers import Answers
    from store.accounting.report import Account, StorageReport
    from store.accounting.usage import Usage

SHOWN_TASKS = {"table": 20, "md": 100, "html": 100}
"""How many tasks the longest table of a format has; CSV and JSON have all."""

MOST_TASKS = 10_000
"""How many tasks a server tells of at most."""

app = command_group()


class ReportFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    HTML = "html"


class Rows(enum.StrEnum):
    TASKS = "tasks"
    VERSIONS = "versions"
    GROUPS = "groups"
    GROWTH = "growth"
    FORMS = "forms"
    BACKBONES = "backbones"
    CHARGES = "charges"
    TENANTS = "tenants"
    UNASKED = "unasked"
    RETENTION = "retention"
    SINCE = "since"
    REASONS = "reasons"


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


@app.command(
    "report",
    epilog=example(
        "report",
        "report --format html > report.html",
        "report --keep-last 3 --older-than 90d",
        "report --prices prices.toml --format csv > charges.csv",
        "report --statistics http://127.0.0.1:8265 --unasked-for 30d",
        "report --request-log requests.jsonl --prices prices.toml",
        "report --format json > today.json && onetrunk report --diff today.json",
        "report --format csv --rows versions",
        "report --pictures pictures",
    ),
)
@with_store(fmt=False)
@with_groups
def print_report(
    options: StoreOptions,
    questions: Questions,
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures to this folder: SVG, and CSV with the data of each.")
    ] = None,
    rows: Annotated[
        Rows | None, typer.Option(help="The table that CSV has: tasks, or charges where there are --prices.")
    ] = None,
    fmt: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = ReportFormat.TABLE,
) -> None:
    """Account for every byte of the store, and compare with other ways to keep the same tasks."""
    from onetrunk.rendering.report_json import to_json_lines
    from store.accounting.report import account_of

    if rows is not None and fmt is not ReportFormat.CSV:
        raise InvalidSettingError(f"--rows {rows} chooses the table of CSV: add --format csv")
    asked = ask(questions)
    with without_collector(), options.open_read_only() as store:
        account, url = account_of(store), store.url
    report, answers = account.report, asked(account)
    if pictures is not None:
        write_pictures(report, pictures)
    if fmt is ReportFormat.JSON:
        typer.echo(to_json_lines({**report.to_json(), **answers.to_json()}))
    elif fmt is ReportFormat.CSV:
        typer.echo(to_csv(table_of(report, answers, rows)))
    elif fmt is ReportFormat.HTML:
        typer.echo(page_of(report, answers, url))
    else:
        print_sections(report, answers, fmt)
    for problem in report.problems[:3]:
        log_to_stderr(f"warning: {problem.subject} {problem.problem}")
    if len(report.problems) > 3:
        log_to_stderr(f"warning: {len(report.problems) - 3} more; --format json has all of them")


@contextmanager
def without_collector() -> Iterator[None]:
    """Let no garbage collector run: a large store makes many objects, all of which the report keeps."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def ask(questions: Questions) -> Callable[[Account], Answers]:
    """Read the files and the times of the questions, and return what answers them once the store is counted."""
    from onetrunk.rendering.report_answers import Answers
    from store.accounting.costs import costs_of
    from store.accounting.differences import compare_reports, read_report
    from store.accounting.prices import read_prices
    from store.accounting.retention import retention
    from store.accounting.since import published_since
    from store.accounting.unasked import unasked
    from store.registry.read_only_store import parse_time

    prices = read_prices(questions.prices) if questions.prices else None
    usage = read_usage(questions)
    unasked_days = parse_duration(questions.unasked_for) / 86_400
    old = read_report(questions.diff) if questions.diff else None
    since = parse_time(questions.since) if questions.since else None
    before = None if questions.older_than is None else _ago(questions.older_than)
    has_rule = questions.keep_last is not None or before is not None

    def answer(account: Account) -> Answers:
        keep = retention(account, keep_last=questions.keep_last, published_before=before) if has_rule else None
        return Answers(
            retention=keep,
            costs=costs_of(account.report, prices, usage) if prices else None,
            unasked=unasked(account, usage, days=unasked_days) if usage else None,
            since=published_since(account, since) if since else None,
            difference=compare_reports(old, account.report, str(questions.diff)) if old is not None else None,
        )

    return answer


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


def table_of(report: StorageReport, answers: Answers, rows: Rows | None) -> list[Record]:
    """Return the table that was chosen; one that an option has to ask for needs that option."""
    own: dict[str, list[Record]] = {
        "tasks": [vars(task) for task in report.tasks],
        "versions": [vars(version) for version in report.versions],
        "groups": [vars(group) for group in report.groups],
        "growth": [vars(point) for point in report.growth],
        "forms": [vars(form) for form in report.comparison.forms],
        "backbones": [vars(backbone) for backbone in report.backbones],
    }
    tables = own | answers.rows(report)
    chosen = rows or (Rows.CHARGES if "charges" in tables else Rows.TASKS)
    if chosen not in tables:
        raise InvalidSettingError(f"--rows {chosen} needs {NEEDS[chosen]}")
    return tables[chosen]


NEEDS = {
    Rows.CHARGES: "--prices FILE",
    Rows.TENANTS: "--prices FILE",
    Rows.UNASKED: "--statistics URL or --request-log FILE",
    Rows.RETENTION: "--keep-last N or --older-than AGE",
    Rows.SINCE: "--since TIME",
    Rows.REASONS: "--diff FILE",
}


def page_of(report: StorageReport, answers: Answers, url: str) -> str:
    from onetrunk.rendering.html import to_html
    from onetrunk.rendering.storage_report import pictured, title
    from store.accounting.pictures.gallery import pictures
    from store.accounting.pictures.style import css

    found = pictured(report, pictures(report), SHOWN_TASKS["html"])
    return to_html(title(report), url, [*answers.sections(), *found], css=css())


def print_sections(report: StorageReport, answers: Answers, fmt: ReportFormat) -> None:
    from onetrunk.rendering.storage_report import sections

    for section in [*answers.sections(), *sections(report, most=SHOWN_TASKS[fmt])]:
        if fmt is ReportFormat.MD:
            typer.echo(f"## {section.title}\n\n{section.text}\n\n{to_markdown(section.rows)}\n")
        else:
            print_table(section.rows, title=section.title)
            log_to_stderr(section.text)


def write_pictures(report: StorageReport, folder: Path) -> None:
    from store.accounting.pictures.gallery import pictures

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures(report):
            (folder / f"{picture.name}.svg").write_text(picture.file(), "utf-8")
            (folder / f"{picture.name}.csv").write_text(f"{to_csv(picture.rows)}\n", "utf-8")
    except OSError as error:
        raise ConflictError(f"{folder} cannot hold the pictures ({error.strerror}): name another folder") from None
    log_to_stderr(f"pictures: {folder}")
