"""How commands print: data to stdout, everything else to stderr."""

from __future__ import annotations

import enum
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.hints import with_hint
from onetrunk.rendering.tables import Record, cell, heading, to_csv, to_json, to_table
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from rich.console import Console

    from store.registry.store import Version


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]


VERSION_COLUMNS = ("task", "version", "aliases", "backbone", "depth", "blocks", "classes", "method", "nbytes")


PIPE_WIDTH = 160  # a program that reads a pipe gets no cells wrapped for a screen of 80 columns


SHOWN = 12  # entries of a list that a table shows


def log_to_stderr(text: str) -> None:
    typer.echo(text, err=True)


def log_notes(error: BaseException) -> None:
    """Print what was noted on an error, such as where a tuned task is kept."""
    for note in getattr(error, "__notes__", ()):
        log_to_stderr(with_hint(note))


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, whatever markup it looks like."""
    from rich.console import Console

    width = None if stderr or sys.stdout.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def confirm(question: str, *, yes: bool) -> None:
    """Return if the user confirms; exit if not, and raise `InvalidSettingError` if stdin is not a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidSettingError(
            "confirmation required, but stdin is not a terminal: pass --yes (or --dry-run to preview)"
        )
    if not typer.confirm(question, err=True):
        log_to_stderr("nothing was changed")
        raise typer.Exit(1)


def log_dry_run() -> None:
    log_to_stderr("nothing was changed: this is what it would do")


def print_versions(versions: Sequence[Version], fmt: Format) -> None:
    print_rows([version.to_dict() for version in versions], fmt, VERSION_COLUMNS)


def print_rows(rows: Sequence[Record], fmt: Format, columns: Sequence[str] | None = None) -> None:
    """Print rows to stdout; a table shows only the columns named, JSON and CSV show all."""
    if fmt is Format.JSON:
        typer.echo(to_json(rows))
    elif fmt is Format.CSV:
        typer.echo(to_csv(rows), nl=bool(rows))
    elif rows:
        print_table([{key: row[key] for key in columns or row} for row in rows])


def print_record(record: Record, fmt: Format, fields: Record | None = None) -> None:
    """Print one record to stdout: JSON as an object, CSV as a line, a table as a row for each of its fields."""
    if fmt is Format.JSON:
        typer.echo(to_json(record))
    elif fmt is Format.CSV:
        typer.echo(to_csv([record]))
    else:
        print_fields(fields or record)


def print_fields(fields: Record) -> None:
    print_table([{"field": heading(key), "value": cell(key, shorten(value))} for key, value in fields.items()])


def print_table(rows: Sequence[Record], *, title: str | None = None) -> None:
    """Print rows for people: numbers to the right, byte counts with a unit, long lists cut short."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    short = [{key: shorten(value) for key, value in row.items()} for row in rows]
    if title:
        typer.secho(title, bold=True)
    typer.echo(to_table(short, width=width) + "\n" * bool(title))


def shorten(value: object) -> object:
    """Return the first entries of a long list, and how many more there are."""
    if isinstance(value, (list, tuple)) and len(value) > SHOWN:
        return [*value[:SHOWN], f"… and {len(value) - SHOWN} more"]
    return value


def omit(row: Mapping[str, object], *keys: str) -> Record:
    return {key: value for key, value in row.items() if key not in keys}
