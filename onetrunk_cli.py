"""What the commands share: their options, how they open a store, and how they print.

What a command is asked for goes to stdout, what it has to say besides to stderr. Libraries are imported where they are
needed, so that `--help` and `ls` wait for none of them.
"""

from __future__ import annotations

import enum
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from store.errors import InvalidSettingError
from store.render import Row, cell, heading, to_csv, to_json, to_table

if TYPE_CHECKING:
    from rich.console import Console

    from store.evidence import Accuracy
    from store.listings import Listings
    from store.shelf import Shelf
    from store.store import Store, Version


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


StoreUrl = Annotated[
    str,
    typer.Option("--store", envvar="ONETRUNK_STORE", help="Folder, s3://BUCKET/PREFIX, gs:// or az:// of the store."),
]
Catalogue = Annotated[
    str | None,
    typer.Option(envvar="ONETRUNK_CATALOGUE", help="Database URL of the catalogue; default: SQLite in the folder."),
]
Actor = Annotated[
    str | None,
    typer.Option(envvar="ONETRUNK_ACTOR", help="Who the history says it was; default: this user and machine."),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
BackboneName = Annotated[str | None, typer.Option("--backbone", help="Name or fingerprint of a backbone.")]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="Point this alias at the new version; may be repeated.")
]
Parent = Annotated[str | None, typer.Option(help="The version of this store that it was made from, as a REF.")]
Force = Annotated[
    bool, typer.Option("--force", help="Move a protected alias too; no rule on accuracy is opened by it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would do, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
At = Annotated[str | None, typer.Option("--at", help="As it was then: ISO 8601, in UTC unless it says otherwise.")]

STORE = "onetrunk-store"
PORT = 8265
REF_HELP = "TASK, TASK@ALIAS, TASK:NUMBER or TASK@sha256:DIGEST."
LISTED = ("task", "version", "aliases", "backbone", "depth", "blocks", "classes", "method", "nbytes")
PIPE_WIDTH = 160  # what reads a pipe should not get the wrapped cells of an 80-column screen
ACTOR_LENGTH = 300
SHOWN = 12  # entries of a list that a table shows
DURATION = re.compile(r"([0-9]{1,9}(?:[.][0-9]{1,6})?)([smhd]?)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def example(*lines: str) -> str:
    """Format the examples that stand under a command's help, each on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  onetrunk {line}" for line in lines)


def command_group(text: str | None = None) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def is_on_a_server(catalogue: str | None) -> bool:
    return catalogue is not None and not catalogue.startswith("sqlite:")


def open_listings(root: str, *, catalogue: str | None) -> Listings:
    """Open a store to list what it holds; with a catalogue in SQLite, without all that lies deeper."""
    if is_on_a_server(catalogue):
        return open_store(root, catalogue=catalogue)
    from store.listings import Listings

    return Listings.open(root, catalogue=catalogue)


def open_shelf(root: str, *, catalogue: str | None) -> Shelf:
    """Open a store to read it; with a catalogue in SQLite, without the database library, which takes 0.3 s to load."""
    if is_on_a_server(catalogue):
        return open_store(root, catalogue=catalogue)
    from store.shelf import Shelf

    return Shelf.open(root, catalogue=catalogue)


def open_store(root: str, *, catalogue: str | None, actor: str | None = None, create: bool = False) -> Store:
    from store.store import Store

    if actor and not (actor.isprintable() and len(actor) <= ACTOR_LENGTH):
        raise InvalidSettingError(f"actor {actor[:80]!r}: use at most {ACTOR_LENGTH} printable characters")
    return Store.open(root, create=create, catalogue=catalogue, actor=actor or None)


def say(text: str) -> None:
    typer.echo(text, err=True)


def terminal(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is, whatever markup it looks like."""
    from rich.console import Console

    width = None if stderr or sys.stdout.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def ask(question: str, *, yes: bool) -> None:
    """Return if the user wants it; end where not, or where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidSettingError(
            "this is asked about, and there is no terminal to ask at: look with --dry-run, add --yes"
        )
    if not typer.confirm(question, err=True):
        say("nothing was changed")
        raise typer.Exit(1)


def parse_duration(text: str) -> float:
    """Return the seconds of `90`, `90s`, `15m`, `1h` or `14d`."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise InvalidSettingError(f"duration {text[:40]!r} is not valid: write seconds, or 90s, 15m, 1h, 14d")
    return float(match[1]) * SECONDS[match[2]]


def parse_pairs(pairs: Sequence[str], *, option: str) -> dict[str, str]:
    """Read KEY=VALUE pairs."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key or not value:
            raise InvalidSettingError(
                f"{option} {pair[:80]!r} is not KEY=VALUE: write for example {option} team=garden"
            )
        found[key] = value
    return found


def print_versions(versions: Sequence[Version], fmt: Format) -> None:
    from store.summary import summarise

    print_rows([summarise(version) for version in versions], fmt, LISTED)


def print_rows(rows: Sequence[Row], fmt: Format, columns: Sequence[str] | None = None) -> None:
    """Print rows to stdout; a table shows only the columns named, JSON and CSV show all."""
    if fmt is Format.JSON:
        typer.echo(to_json(rows))
    elif fmt is Format.CSV:
        typer.echo(to_csv(rows), nl=bool(rows))
    elif rows:
        print_table([{key: row[key] for key in columns or row} for row in rows])


def print_record(record: Row, fmt: Format, fields: Row | None = None) -> None:
    """Print one record to stdout: JSON as an object, CSV as a line, a table as a row for each of its fields."""
    if fmt is Format.JSON:
        typer.echo(to_json(record))
    elif fmt is Format.CSV:
        typer.echo(to_csv([record]))
    else:
        print_fields(fields or record)


def print_fields(fields: Row) -> None:
    print_table([{"field": heading(key), "value": cell(key, shorten(value))} for key, value in fields.items()])


def print_table(rows: Sequence[Row], *, title: str | None = None) -> None:
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


def show_accuracy(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return f"{accuracy.value:.1%} [{low:.1%}, {high:.1%}] on {accuracy.total} held-out images"


def absolute_store(root: str) -> str:
    """Return the address as a process in another folder may use it."""
    from store.places import SCHEME

    return root if SCHEME.match(root) else str(Path(root).resolve())


def absolute_catalogue(catalogue: str | None) -> str | None:
    """Return the URL as a process in another folder may use it."""
    if catalogue is None or not catalogue.startswith("sqlite:///"):
        return catalogue
    return f"sqlite:///{Path(catalogue.removeprefix('sqlite:///')).resolve()}"


def without(row: Mapping[str, object], *keys: str) -> Row:
    return {key: value for key, value in row.items() if key not in keys}
