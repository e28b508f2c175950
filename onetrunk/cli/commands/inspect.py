"""Commands that look into a store: what there is, what it was, what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.options import REF_HELP, STORE, At, Catalogue, StoreUrl, command_group, example
from onetrunk.cli.output import (
    VERSION_COLUMNS,
    Format,
    FormatOption,
    log_to_stderr,
    print_fields,
    print_rows,
    show_accuracy,
)
from onetrunk.cli.parsing import parse_pairs
from onetrunk.rendering.tables import Record, cell, to_json
from onetrunk.stores import open_catalogue, open_read_only
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.records.evidence import Certificate
    from store.records.listing import Search, VersionListing
    from store.registry.catalogue_reader import CatalogueReader
    from store.registry.diff import Difference
    from store.registry.store import Version

PAGE = 50
ALL = 1000  # tasks asked for at a time where all are wanted
EVENT = ("number", "at", "actor", "action", "version", "alias", "details")

app = command_group()


@app.command("ls", epilog=example(
    "ls",
    "ls flowers",
    "ls --search rose --tag team=garden --format json",
    "ls --alias prod --limit 100 --after garden/roses",
))  # fmt: skip
def list_versions(
    task: Annotated[str | None, typer.Argument(help="List the versions of this task alone.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help=f"At most so many, {PAGE} tasks unless given; 0: all of them.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Go on after this task.")] = None,
    search: Annotated[str | None, typer.Option(help="Tasks with this in their name.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the version or its task; may be repeated.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Tasks on this backbone.")] = None,
    method: Annotated[str | None, typer.Option(help="Tasks of this PEFT method, such as lora.")] = None,
    alias: Annotated[str | None, typer.Option(help="The versions that this alias names, for `latest`.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tasks TENANT/…; '' for those without a tenant.")] = None,
    removed: Annotated[bool, typer.Option("--removed", help="What was removed, and `restore` can bring back.")] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List the latest version of every task, or every version of one."""
    from store.records.listing import Search
    from store.records.version import summarise_listed

    tags = parse_pairs(tag or [], option="--tag")
    wanted = Search(text=search, tags=tags, backbone=backbone, method=method, alias=alias, tenant=tenant)
    if (task or removed) and (wanted != Search() or after is not None):
        raise InvalidSettingError("a search is through all tasks: leave out TASK and --removed, or the search")
    with open_catalogue(store, catalogue=catalogue) as opened:
        if removed:
            rows, more = opened.list_removed(task), False
        elif task:
            rows, more = opened.list_versions(task), False
        else:
            rows, more = find_tasks(opened, wanted, after=after, limit=PAGE if limit is None else limit)
    if limit and len(rows) > limit:  # of one task, the newest are those that are asked for
        log_to_stderr(f"{len(rows) - limit} older ones are left out: --limit 0 lists all")
        rows = rows[-limit:]
    columns = [*VERSION_COLUMNS, *["tags"] * any(row.tags for row in rows), *["removed_at"] * removed]
    print_rows([summarise_listed(row) for row in rows], fmt, columns)
    if more:
        log_to_stderr(f"more follow: add --after {rows[-1].task}, or --limit 0 for all")


def find_tasks(
    listings: CatalogueReader, search: Search, *, after: str | None, limit: int
) -> tuple[tuple[VersionListing, ...], bool]:
    """Return one page, or with limit 0 every task, and whether more follow."""
    page = listings.search(search, after=after, limit=limit or ALL)
    rows = list(page.rows)
    while page.next is not None and not limit:
        page = listings.search(search, after=page.next, limit=ALL)
        rows += page.rows
    return tuple(rows), page.next is not None


@app.command(epilog=example(
    "show flowers", "show flowers@prod --format json", "show flowers:3", "show flowers@prod --at 2026-03-01",
))  # fmt: skip
def show(
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    at: At = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Show a version and the evidence for its cut."""
    with open_read_only(store, catalogue=catalogue) as opened:
        version = opened.resolve(ref, at=at)
        tags = opened.effective_tags(version.task, version.version)
    if fmt is Format.JSON:
        typer.echo(to_json(json.loads(version.manifest.to_json())))
    elif fmt is Format.CSV:
        print_rows([{"field": key, "value": value} for key, value in describe(version, tags).items()], fmt)
    else:
        print_fields(describe(version, tags))


def describe(version: Version, tags: dict[str, str]) -> Record:
    """Return what a person asks of a version."""
    from store.records.version import summarise

    manifest, index, lineage = version.manifest, version.manifest.prune_index, version.manifest.lineage
    fields: dict[str, object] = {**summarise(version), "removed_at": version.removed_at, "tags": tags}
    fields |= {"modules": len(manifest.adapter.modules), "rank": manifest.adapter.rank}
    fields |= {"criterion": index.criterion, "alpha": index.alpha, "tolerance": index.tolerance}
    fields |= {"threshold": index.threshold, "undecided depths": index.candidates, "reason": index.reason}
    fields["scores, block 1 first"] = " ".join(cell("score", score) for score in index.scores)
    if manifest.certificate:
        fields |= describe_certificate(manifest.certificate)
    if lineage:
        fields |= {"data": lineage.data, "data digest": lineage.data_digest}
        fields |= {"code commit": lineage.code_commit, "parent": lineage.parent}
    return fields


def describe_certificate(found: Certificate) -> Record:
    """Return test accuracies, which chose nothing, and validation accuracies, which may have."""
    measured = {"full": found.full, "cut": found.cut, "cut before retune": found.cut_before_retune}
    fields: dict[str, object] = {
        f"accuracy {name}": accuracy and show_accuracy(accuracy) for name, accuracy in measured.items()
    }
    if found.validation:
        fields["validation full"] = show_accuracy(found.validation.full)
        fields["validation cut"] = show_accuracy(found.validation.cut)
        fields["points lost at the cut"] = f"{found.validation.drop:.2f}"
    fields["points allowed to lose"] = found.max_drop
    fields["closed-form head, block 1 first"] = " ".join(f"{accuracy.value:.1%}" for accuracy in found.curve)
    return fields


@app.command(
    epilog=example("history flowers", "history flowers --format json", "history flowers --at 2026-03-01T12:00")
)
def history(
    task: Annotated[str, typer.Argument(help="A task; a purged one still has its history.")],
    at: At = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tell who did what to a task, and when. With --at, what each of its aliases named then."""
    with open_read_only(store, catalogue=catalogue) as opened:
        events = opened.history(task)
        if at is not None:
            print_rows([vars(target) for target in opened.aliases_at(task, at)], fmt)
            return
    print_rows([{**vars(event), "sha256": event.sha256} for event in events], fmt, EVENT)


@app.command(epilog=example("diff flowers:3 flowers:4", "diff flowers@prod flowers --format json"))
def diff(
    left: Annotated[str, typer.Argument(help=REF_HELP)],
    right: Annotated[str, typer.Argument(help=REF_HELP)],
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Tell where two versions differ. Depth, method, accuracy, bytes, labels and lineage are compared."""
    from store.adapters.checkpoint import parse_classes
    from store.registry.diff import Side, diff

    with open_read_only(store, catalogue=catalogue) as opened:
        manifests = [opened.resolve(ref).manifest for ref in (left, right)]
        sides = [Side(found, parse_classes(opened.read(found.head.labels))) for found in manifests]
    found = diff(*sides)
    if fmt is Format.JSON:
        typer.echo(to_json([asdict(row) for row in found]))
    else:
        print_rows([readable(row) for row in found], fmt)
    if not found:
        log_to_stderr("no difference")


def readable(row: Difference) -> Record:
    from store.records.evidence import Accuracy

    def read(value: object) -> object:
        if isinstance(value, Mapping):
            return show_accuracy(Accuracy(value["correct"], value["total"]))
        if isinstance(value, str) and value.startswith("sha256:"):
            return f"{value[:19]}…"
        return cell(row.field, value) if row.field == "nbytes" else value

    return {"field": row.field, "left": read(row.left), "right": read(row.right)}
