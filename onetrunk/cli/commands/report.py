"""The command that accounts for every byte of a store."""

from __future__ import annotations

import enum
import gc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_groups, with_store
from onetrunk.cli.options import command_group, example
from onetrunk.cli.output import log_to_stderr, print_table
from onetrunk.cli.report_questions import Questions, ask
from onetrunk.rendering.tables import Record, to_csv, to_markdown
from store.errors import ConflictError, InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onetrunk.rendering.report_answers import Answers
    from store.accounting.report import StorageReport

SHOWN_TASKS = {"table": 20, "md": 100, "html": 100}
"""How many tasks the longest table of a format has; CSV and JSON have all."""

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
    """Let no garbage collector run: a large store makes many objects, all of which the report keeps.

    Nor does one look at them later, while tables are printed and when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def table_of(report: StorageReport, answers: Answers, rows: Rows | None) -> list[Record]:
    """Return the table that was chosen; one that an option has to ask for needs that option."""
    own: dict[str, list[Record]] = {
        "tasks": [task._asdict() for task in report.tasks],
        "versions": [version._asdict() for version in report.versions],
        "groups": [group._asdict() for group in report.groups],
        "growth": [point._asdict() for point in report.growth],
        "forms": [vars(form) for form in report.comparison.forms],
        "backbones": [backbone._asdict() for backbone in report.backbones],
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
