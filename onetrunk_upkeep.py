"""Commands that keep a store in order: account for it, check it, free what nothing names, mend it."""

from __future__ import annotations

import enum
import os
from dataclasses import asdict
from typing import Annotated

import typer

from onetrunk_cli import (
    STORE,
    Actor,
    Catalogue,
    DryRun,
    Format,
    FormatOption,
    StoreUrl,
    Yes,
    ask,
    command_group,
    example,
    open_shelf,
    open_store,
    parse_duration,
    print_record,
    print_rows,
    print_table,
    say,
    without,
)
from store.errors import NotFoundError
from store.render import Row, to_csv, to_json, to_markdown

GRACE = "1h"
LARGE = 5_000
"""Versions from which on other processes help to verify: below it, they take longer to start."""

app = command_group()
key_app = command_group("API keys of the server: make, list, revoke.")
app.add_typer(key_app, name="key")


class ReportFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"
    HTML = "html"


@app.command(epilog=example("leases", "leases --format json"))
def leases(store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """List what servers and publishes hold, and `rm` and `gc` spare."""
    from datetime import UTC, datetime

    rows: list[Row] = []
    with open_shelf(store, catalogue=catalogue) as opened:
        for lease in opened.leases():
            naming = ((digest, row) for digest in lease.digests for row in opened.reader.naming(digest))
            held = sorted((row.task, row.version) for digest, row in naming if row.manifest.sha256 == digest)
            expires_at = datetime.fromtimestamp(lease.expires_at, UTC).isoformat(timespec="milliseconds")
            named = {"versions": [f"{task}:{version}" for task, version in held], "blobs": len(lease.digests)}
            rows.append({"id": lease.id, "holder": lease.holder, "expires_at": expires_at, **named})
    print_rows(rows, fmt)


@app.command("report", epilog=example("report", "report --format html > report.html", "report --format json"))
def print_report(
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: Annotated[ReportFormat, typer.Option("--format", help="How to print.")] = ReportFormat.TABLE,
) -> None:
    """Account for every byte of the store, beside that of copies."""
    from store.page import to_html
    from store.report import report
    from store.statement import sections, title

    with open_shelf(store, catalogue=catalogue) as opened:
        counted = report(opened)
    if fmt is ReportFormat.JSON:
        typer.echo(to_json(counted.to_json()))
    elif fmt is ReportFormat.CSV:
        typer.echo(to_csv([asdict(task) for task in counted.tasks]))
    elif fmt is ReportFormat.HTML:
        typer.echo(to_html(title(counted), opened.url, sections(counted)))
    else:
        for section in sections(counted):
            if fmt is ReportFormat.MD:
                typer.echo(f"## {section.title}\n\n{section.text}\n\n{to_markdown(section.rows)}\n")
            else:
                print_table(section.rows, title=section.title)
                say(section.text)


@app.command(epilog=example("gc --dry-run", "gc --grace 14d --yes", "gc --grace 0 --yes --format json"))
def gc(
    grace: Annotated[
        str, typer.Option(help="How long ago it was removed, at least: seconds, or 15m, 1h, 14d.")
    ] = GRACE,
    wait: Annotated[bool, typer.Option("--wait", help="Stay for the grace time, and free all in one go.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Free what was removed, and blobs that nothing names. They are marked, and freed after the grace time."""
    grace_s = parse_duration(grace)
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        found = opened.collect(grace_s=grace_s, dry_run=True, wait=wait)
        if not dry_run:
            if found.purged or found.freed or found.leftovers:
                ask(
                    f"free {found.freed_nbytes} B for ever, of {len(found.purged)} removed versions and "
                    f"{len(found.freed)} blobs?",
                    yes=yes,
                )
            found = opened.collect(grace_s=grace_s, wait=wait)
    print_record(
        asdict(found),
        fmt,
        {
            "purged versions": len(found.purged),
            "freed blobs": len(found.freed),
            "leftovers of broken writes": len(found.leftovers),
            "freed bytes": found.freed_nbytes,
            "marked blobs": len(found.condemned),
            "marked bytes": found.condemned_nbytes,
        },
    )
    if dry_run:
        say("nothing was changed: this is what it would do")
    elif found.condemned:
        say(f"{found.condemned_nbytes} B are marked: the first `gc` {grace} after they were frees them")


@app.command(epilog=example("verify", "verify --metadata", "verify --quarantine --format json"))
def verify(
    metadata: Annotated[
        bool, typer.Option("--metadata", help="History, tables, manifests and records alone, no other blob.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set damaged blobs aside, so that they can be put again.")
    ] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Check every digest and the history. Exits with 1 where something is damaged."""
    with open_store(store, catalogue=catalogue) as opened:
        large = sum(opened.reader.next_versions().values()) > LARGE
        others = len(os.sched_getaffinity(0)) - 1 if large else 0
        findings = opened.verify(metadata_only=metadata, quarantine=quarantine, processes=others)
    print_rows([asdict(finding) for finding in findings], fmt)
    if findings:
        raise typer.Exit(1)
    say("history, tables and manifests are right" if metadata else "every digest is right")


@app.command(
    epilog=example("rebuild", "rebuild --store s3://models/vision --catalogue postgresql+psycopg://me@db/models")
)
def rebuild(store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """Make a lost catalogue again, from journal and manifests. Exits with 1 where some cannot be read."""
    from store.rebuild import rebuild

    made = rebuild(store, catalogue=catalogue)
    print_record(asdict(made), fmt, {"events": made.events, "versions": made.versions})
    for problem in made.problems:
        say(problem)
    if made.problems:
        raise typer.Exit(1)


@app.command(epilog=example("migrate --dry-run", "migrate --yes"))
def migrate(
    dry_run: DryRun = False,
    yes: Yes = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Bring a store to this onetrunk's format. Older ones can use it no more."""
    from store.identity import STORE_FORMAT, identity_format
    from store.migrate import migrate
    from store.places import open_backend

    found = identity_format(open_backend(store))
    if found < STORE_FORMAT and not dry_run:
        ask(f"migrate from format {found} to {STORE_FORMAT}? Stop older onetrunks first, and keep a copy", yes=yes)
        migrate(store, catalogue=catalogue, actor=actor)
    print_record({"from": found, "to": STORE_FORMAT}, fmt)
    if dry_run:
        say("nothing was changed: this is what it would do")


@key_app.command("add", epilog=example("key add", "key add --tenant garden --scope read --scope publish"))
def add_key(
    tenant: Annotated[
        str | None, typer.Option(help="Whose tasks it sees, TENANT/…; default: all, as operator.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="read, publish, promote or admin; may be repeated; default: read.")
    ] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Make an API key and print its secret, this once. The store keeps only its digest."""
    from store.keys import new_key

    key, secret = new_key(tenant, tuple(scope or ("read",)))
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        opened.put_key(key)
    typer.echo(secret)
    say(f"key {key.id} of {tenant or 'the operator'}, scopes {', '.join(key.scopes)}: it is not shown again")


@key_app.command("ls", epilog=example("key ls", "key ls --tenant garden --format json"))
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="Keys of this tenant alone.")] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List API keys. What is shown here lets nobody in."""
    with open_shelf(store, catalogue=catalogue) as opened:
        rows = [without(asdict(key), "sha256") for key in opened.reader.keys(tenant)]
    print_rows(rows, fmt)


@key_app.command("revoke", epilog=example("key revoke 0123456789abcdef"))
def revoke_key(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `key ls` lists it.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Make a key worthless for ever."""
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        key = opened.reader.key(identifier)
        if key is None:
            raise NotFoundError(f"no API key {identifier[:40]!r}: see `onetrunk key ls`")
        said = f"key {key.id} of {key.tenant or 'the operator'}, scopes {', '.join(key.scopes)}"
        if not dry_run:
            ask(f"revoke {said}?", yes=yes)
            opened.revoke_key(identifier)
    say(f"{said}: {'would be revoked' if dry_run else 'revoked'}")
