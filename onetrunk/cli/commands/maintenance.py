"""Commands that keep a store in order: check it, free what nothing names, repair it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import DryRun, Yes, command_group, example
from onetrunk.cli.output import confirm, log_to_stderr, print_record, print_rows
from onetrunk.cli.parsing import parse_duration
from onetrunk.rendering.tables import Record

GRACE = "1h"
LARGE = 5_000
"""Versions from which on other processes help to verify: below it, they take longer to start."""

app = command_group()


@app.command(epilog=example("leases", "leases --format json"))
@with_store()
def leases(options: StoreOptions) -> None:
    """List what servers and publishes hold, and `rm` and `gc` spare."""
    from datetime import UTC, datetime

    rows: list[Record] = []
    with options.open_read_only() as store:
        for lease in store.leases():
            naming = ((digest, row) for digest in lease.digests for row in store.queries.referencing_versions(digest))
            held = sorted((row.task, row.version) for digest, row in naming if row.manifest.sha256 == digest)
            expires_at = datetime.fromtimestamp(lease.expires_at, UTC).isoformat(timespec="milliseconds")
            named = {"versions": [f"{task}:{version}" for task, version in held], "blobs": len(lease.digests)}
            rows.append({"id": lease.id, "holder": lease.holder, "expires_at": expires_at, **named})
    print_rows(rows, options.fmt)


@app.command(epilog=example("gc --dry-run", "gc --grace 14d --yes", "gc --grace 0 --yes --format json"))
@with_store(write=True)
def gc(
    options: StoreOptions,
    grace: Annotated[
        str, typer.Option(help="How long ago it was removed, at least: seconds, or 15m, 1h, 14d.")
    ] = GRACE,
    wait: Annotated[bool, typer.Option("--wait", help="Stay for the grace time, and free all in one go.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Free what was removed, and blobs that nothing names. They are marked, and freed after the grace time."""
    grace_s = parse_duration(grace)
    from store.maintenance.garbage import collect_garbage

    with options.open() as store:
        found = collect_garbage(store, grace_s=grace_s, dry_run=True, wait=wait)
        if not dry_run:
            if found.purged or found.freed or found.leftovers:
                confirm(
                    f"free {found.freed_nbytes} B for ever, of {len(found.purged)} removed versions and "
                    f"{len(found.freed)} blobs?",
                    yes=yes,
                )
            found = collect_garbage(store, grace_s=grace_s, wait=wait)
    print_record(
        asdict(found),
        options.fmt,
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
        log_to_stderr("nothing was changed: this is what it would do")
    elif found.condemned:
        log_to_stderr(f"{found.condemned_nbytes} B are marked: the first `gc` {grace} after they were frees them")


@app.command("verify", epilog=example("verify", "verify --metadata", "verify --quarantine --format json"))
@with_store()
def verify_store(
    options: StoreOptions,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="History, tables, manifests and records alone, no other blob.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set damaged blobs aside, so that they can be put again.")
    ] = False,
) -> None:
    """Check every digest and the history. Exits with 1 where something is damaged."""
    from store.maintenance.verify import verify

    with options.open() as store:
        large = sum(store.queries.next_versions().values()) > LARGE
        others = len(os.sched_getaffinity(0)) - 1 if large else 0
        findings = verify(store, metadata_only=metadata, quarantine=quarantine, processes=others)
    print_rows([asdict(finding) for finding in findings], options.fmt)
    if findings:
        raise typer.Exit(1)
    log_to_stderr("history, tables and manifests are right" if metadata else "every digest is right")


@app.command(
    epilog=example("rebuild", "rebuild --store s3://models/vision --catalogue postgresql+psycopg://me@db/models")
)
@with_store()
def rebuild(options: StoreOptions) -> None:
    """Make a lost catalogue again, from journal and manifests. Exits with 1 where some cannot be read."""
    from store.maintenance.rebuild import rebuild

    made = rebuild(options.url, catalogue=options.catalogue)
    print_record(asdict(made), options.fmt, {"events": made.events, "versions": made.versions})
    for problem in made.problems:
        log_to_stderr(problem)
    if made.problems:
        raise typer.Exit(1)


@app.command(epilog=example("migrate --dry-run", "migrate --yes"))
@with_store(write=True)
def migrate(
    options: StoreOptions,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Bring a store to this onetrunk's format. Older ones can use it no more."""
    from store.backends.identity import STORE_FORMAT, identity_format
    from store.backends.urls import open_backend
    from store.maintenance.migrate import migrate

    found = identity_format(open_backend(options.url))
    if found < STORE_FORMAT and not dry_run:
        confirm(f"migrate from format {found} to {STORE_FORMAT}? Stop older onetrunks first, and keep a copy", yes=yes)
        migrate(options.url, catalogue=options.catalogue, actor=options.actor)
    print_record({"from": found, "to": STORE_FORMAT}, options.fmt)
    if dry_run:
        log_to_stderr("nothing was changed: this is what it would do")
