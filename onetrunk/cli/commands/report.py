"""The command that accounts for every byte of a store."""

from __future__ import annotations

import enum
from dataclasses import asdict
from typing import Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import command_group, example
from onetrunk.cli.output import log_to_stderr, print_table
from onetrunk.rendering.tables import to_csv, to_json, to_markdown

app = command_group()


class ReportFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    HTML = "html"


@app.command("report", epilog=example("report", "report --format html > report.html", "report --format json"))
@with_store(fmt=False)
def print_report(
    options: StoreOptions,
    fmt: Annotated[ReportFormat, typer.Option("--format", help="Output format.")] = ReportFormat.TABLE,
) -> None:
    """Account for every byte of the store, and compare with full copies of the model."""
    from onetrunk.rendering.html import to_html
    from onetrunk.rendering.storage_report import sections, title
    from store.accounting.report import storage_report

    with options.open_read_only() as store:
        report = storage_report(store)
    if fmt is ReportFormat.JSON:
        typer.echo(to_json(report.to_json()))
    elif fmt is ReportFormat.CSV:
        typer.echo(to_csv([asdict(task) for task in report.tasks]))
    elif fmt is ReportFormat.HTML:
        typer.echo(to_html(title(report), store.url, sections(report)))
    else:
        for section in sections(report):
            if fmt is ReportFormat.MD:
                typer.echo(f"## {section.title}\n\n{section.text}\n\n{to_markdown(section.rows)}\n")
            else:
                print_table(section.rows, title=section.title)
                log_to_stderr(section.text)
