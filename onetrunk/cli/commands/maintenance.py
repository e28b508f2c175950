"""Commands that maintain a store: check it, free unreferenced blobs, rebuild and migrate it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from onetrunk.cli.hints import with_hint
from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import DryRun, Yes, command_group, example
from onetrunk.cli.output import confirm, log_dry_run, log_to_stderr, print_record, print_rows
from onetrunk.cli.parsing import parse_duration
from onetrunk.rendering.tables import Record

GRACE = "1h"
LARGE = 5_000
"""From this many versions on, other processes help to verify; with fewer, starting them takes longer."""

app = command_group()


@app.command(epilog=example("leases", "leases --format json"))
@with_store()
def leases(options: StoreOptions) -> None:
    """List the leases of servers and publishes: `rm` and `gc` keep what they protect."""
    from datetime import UTC, datetime

    rows: list[Record] = []
    with options.open_read_only() as store:
        for lease in store.leases():
            expires_at = datetime.fromtimestamp(lease.expires_at, UTC).isoformat(timespec="milliseconds")
            held = {"versions": store.leased_versions(lease), "blobs": len(lease.digests)}
            rows.append({"id": lease.id, "holder": lease.holder, "expires_at": expires_at, **held})
    print_rows(rows, options.fmt)


@app.command(epilog=example("gc --dry-run", "gc --grace 14d --yes", "gc --grace 0 --yes --format json"))
@with_store(write=True)
def gc(
    options: StoreOptions,
    grace: Annotated[
        str, typer.Option(help="Free what was removed at least this long ago: seconds, or 15m, 1h, 14d.")
    ] = GRACE,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the grace time, and free all in one run.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Free removed versions and unreferenced blobs. Blobs are marked first, and freed after the grace time."""
    grace_s = parse_duration(grace)
    from store.maintenance.garbage import collect_garbage

    with options.open() as store:
        report = collect_garbage(store, grace_s=grace_s, dry_run=True, wait=wait)
        if not dry_run:
            if report.purged or report.freed or report.orphaned:
                contents = f"{len(report.purged)} removed versions and {len(report.freed)} blobs"
                confirm(f"free {report.freed_nbytes} B of {contents}? This cannot be undone", yes=yes)
            report = collect_garbage(store, grace_s=grace_s, wait=wait)
    print_record(
        report.to_dict(),
        options.fmt,
        {
            "purged versions": len(report.purged),
            "freed blobs": len(report.freed),
            "orphaned temporary files": len(report.orphaned),
            "freed bytes": report.freed_nbytes,
            "marked blobs": len(report.marked),
            "marked bytes": report.marked_nbytes,
        },
    )
    if dry_run:
        log_dry_run()
    elif report.marked:
        log_to_stderr(f"{report.marked_nbytes} B are marked: a `gc` at least {grace} later frees them")


@app.command("verify", epilog=example("verify", "verify --metadata", "verify --quarantine --format json"))
@with_store()
def verify_store(
    options: StoreOptions,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Check only history, tables, manifests and records, no other blobs.")
    ] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set damaged blobs aside, so that they can be written again.")
    ] = False,
) -> None:
    """Check every digest and the history. Exits with 1 where something is damaged."""
    from store.maintenance.verify import verify

    with options.open() as store:
        large = store.count_versions() > LARGE
        others = len(os.sched_getaffinity(0)) - 1 if large else 0
        findings = verify(store, metadata_only=metadata, quarantine=quarantine, processes=others)
    print_rows([{**asdict(finding), "problem": with_hint(finding.problem)} for finding in findings], options.fmt)
    if findings:
        raise typer.Exit(1)
    log_to_stderr("history, tables and manifests are consistent" if metadata else "every digest matches")


@app.command(
    epilog=example("rebuild", "rebuild --store s3://models/vision --catalogue postgresql+psycopg://me@db/models")
)
@with_store()
def rebuild(options: StoreOptions) -> None:
    """Rebuild a lost catalogue from the journal and the manifests. Exits with 1 if some cannot be read."""
    from store.maintenance.rebuild import rebuild

    result = rebuild(options.url, catalogue=options.catalogue)
    print_record(asdict(result), options.fmt, {"events": result.events, "versions": result.versions})
    for problem in result.problems:
        log_to_stderr(with_hint(problem))
    if result.problems:
        raise typer.Exit(1)


@app.command(epilog=example("migrate --dry-run", "migrate --yes"))
@with_store(write=True)
def migrate(
    options: StoreOptions,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Migrate a store to the format of this version of onetrunk. Older versions cannot open it afterwards."""
    from store.backends.identity import STORE_FORMAT, store_format
    from store.backends.urls import open_backend
    from store.maintenance.migrate import migrate

    old = store_format(open_backend(options.url))
    if old < STORE_FORMAT and not dry_run:
        advice = "Stop older versions of onetrunk first, and keep a copy"
        confirm(f"migrate from format {old} to {STORE_FORMAT}? {advice}", yes=yes)
        migrate(options.url, catalogue=options.catalogue, actor=options.actor)
    print_record({"from": old, "to": STORE_FORMAT}, options.fmt)
    if dry_run:
        log_dry_run()
