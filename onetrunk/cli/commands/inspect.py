"""Commands that show the contents of a store, now and at an earlier time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import REF_HELP, At, command_group, example
from onetrunk.cli.output import VERSION_COLUMNS, Format, log_to_stderr, print_fields, print_rows
from onetrunk.cli.parsing import parse_pairs
from onetrunk.rendering.accuracy import percent, with_interval
from onetrunk.rendering.measures import describe_measures
from onetrunk.rendering.tables import Record, cell, to_json
from store.adapters.checkpoint import parse_classes
from store.errors import InvalidSettingError, NotFoundError, StorageError

if TYPE_CHECKING:
    from store.records.evidence import Certificate
    from store.records.listing import Search, VersionListing
    from store.registry.catalogue_reader import CatalogueReader
    from store.registry.diff import Difference
    from store.registry.read_only_store import ReadOnlyStore
    from store.registry.store import Version

PAGE = 50
ALL = 1000  # tasks of one page where all are listed
EVENT = ("number", "at", "actor", "action", "version", "alias", "details")

app = command_group()


@app.command("ls", epilog=example(
    "ls",
    "ls flowers",
    "ls --search rose --tag team=garden --format json",
    "ls --alias prod --limit 100 --after garden/roses",
))  # fmt: skip
@with_store()
def list_versions(
    options: StoreOptions,
    task: Annotated[str | None, typer.Argument(help="List the versions of this task alone.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help=f"Number of rows at most; default: {PAGE} tasks; 0: all.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Start after this task.")] = None,
    search: Annotated[str | None, typer.Option(help="Tasks with this in their name.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the version or its task; may be repeated.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Tasks on this backbone.")] = None,
    method: Annotated[str | None, typer.Option(help="Tasks of this PEFT method, such as lora.")] = None,
    alias: Annotated[str | None, typer.Option(help="List the versions that this alias names.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Tasks TENANT/…; '' for those without a tenant.")] = None,
    removed: Annotated[bool, typer.Option("--removed", help="List versions that `restore` can bring back.")] = False,
) -> None:
    """List the latest version of every task, or every version of one."""
    from store.records.listing import Search

    tags = parse_pairs(tag or [], option="--tag")
    query = Search(text=search, tags=tags, backbone=backbone, method=method, alias=alias, tenant=tenant)
    if (task or removed) and (query != Search() or after is not None):
        raise InvalidSettingError("a search covers all tasks: leave out TASK and --removed, or the search options")
    with options.open_catalogue() as store:
        if removed:
            rows, more = store.list_removed(task), False
        elif task:
            rows, more = store.list_versions(task), False
        else:
            rows, more = find_tasks(store, query, after=after, limit=PAGE if limit is None else limit)
    if limit and len(rows) > limit:  # of one task, the newest are shown
        log_to_stderr(f"{len(rows) - limit} older versions are not shown: --limit 0 lists all")
        rows = rows[-limit:]
    columns = [*VERSION_COLUMNS, *["tags"] * any(row.tags for row in rows), *["removed_at"] * removed]
    print_rows([row.to_dict() for row in rows], options.fmt, columns)
    if more:
        log_to_stderr(f"more follow: add --after {rows[-1].task}, or --limit 0 for all")


def find_tasks(
    listings: CatalogueReader, search: Search, *, after: str | None, limit: int
) -> tuple[tuple[VersionListing, ...], bool]:
    """Return one page, or with limit 0 every task, and whether more follow."""
    rows: list[VersionListing] = []
    while True:
        page = listings.search(search, after=after, limit=min(limit - len(rows), ALL) if limit else ALL)
        rows += page.rows
        after = page.next
        if after is None or len(rows) == limit:
            return tuple(rows), after is not None


@app.command(epilog=example(
    "show flowers", "show flowers@prod --format json", "show flowers:3", "show flowers@prod --at 2026-03-01",
))  # fmt: skip
@with_store()
def show(
    options: StoreOptions,
    ref: Annotated[str, typer.Argument(help=REF_HELP)],
    at: At = None,
) -> None:
    """Show a version and the evidence for its cut."""
    with options.open_read_only() as store:
        version = store.resolve(ref, at=at)
        tags = store.effective_tags(version.task, version.number)
        classes = class_names(store, version)
        splits = [split for split in store.splits(version.task) if version.number in split.versions]
    described = {**describe(version, tags, classes), **{f"split of {split.alias}": split.words for split in splits}}
    if options.fmt is Format.JSON:
        typer.echo(to_json(json.loads(version.manifest.to_json())))
    elif options.fmt is Format.CSV:
        print_rows([{"field": key, "value": value} for key, value in described.items()], options.fmt)
    else:
        print_fields(described)


def class_names(store: ReadOnlyStore, version: Version) -> Sequence[str]:
    """Return the names of the classes; numbers where the store no longer has them."""
    head = version.manifest.head
    with contextlib.suppress(StorageError, NotFoundError):
        return parse_classes(store.read(head.labels))
    return [f"class {number}" for number in range(head.classes)]


def describe(version: Version, tags: dict[str, str], classes: Sequence[str]) -> Record:
    """Return what `show` prints of a version."""
    manifest, index, lineage = version.manifest, version.manifest.prune_index, version.manifest.lineage
    fields: dict[str, object] = {**version.to_dict(), "removed_at": version.removed_at, "tags": tags}
    fields |= {"modules": len(manifest.adapter.modules), "rank": manifest.adapter.rank}
    fields |= {"criterion": index.criterion, "alpha": index.alpha, "tolerance": index.tolerance}
    fields |= {"threshold": index.threshold, "undecided depths": index.candidates, "reason": index.reason}
    fields["scores, block 1 first"] = " ".join(cell("score", score) for score in index.scores)
    if index.width is not None:
        fields["heads kept, block 1 first"] = " ".join(map(str, index.width.heads_kept))
        fields["units kept, block 1 first"] = " ".join(map(str, index.width.units_kept))
        fields["width_nbytes"] = index.width.nbytes
    if index.tokens is not None:
        fields["patches kept, block 1 first"] = " ".join(map(str, index.tokens.patches_kept))
        fields["tokens_nbytes"] = index.tokens.nbytes
    if manifest.certificate:
        fields |= {**describe_certificate(manifest.certificate), **describe_measures(manifest.certificate, classes)}
    if lineage:
        tuned = lineage.recipe.get("tune")
        if isinstance(tuned, Mapping):
            fields["learning rate"] = tuned.get("learning_rate")
        fields |= {"data": lineage.data, "data digest": lineage.data_digest}
        fields |= {"code commit": lineage.code_commit, "parent": lineage.parent}
    return fields


def describe_certificate(certificate: Certificate) -> Record:
    """Return the test accuracies, by which nothing was chosen, and the validation accuracies."""
    measured = {"full": certificate.full, "cut": certificate.cut, "cut before retune": certificate.cut_before_retune}
    fields: dict[str, object] = {
        f"accuracy {name}": accuracy and with_interval(accuracy) for name, accuracy in measured.items()
    }
    if certificate.validation:
        fields["validation full"] = with_interval(certificate.validation.full)
        fields["validation cut"] = with_interval(certificate.validation.cut)
        fields["points lost at the cut"] = f"{certificate.validation.drop:.2f}"
    fields["points allowed to lose"] = certificate.max_drop
    fields["duplicates allowed"] = certificate.duplicates
    fields["closed-form head, block 1 first"] = " ".join(map(percent, certificate.curve))
    return fields


@app.command(
    epilog=example("history flowers", "history flowers --format json", "history flowers --at 2026-03-01T12:00")
)
@with_store()
def history(
    options: StoreOptions,
    task: Annotated[str, typer.Argument(help="A task; a purged one still has its history.")],
    at: At = None,
) -> None:
    """Show who changed a task, how and when. With --at, the version that each of its aliases named then."""
    with options.open_read_only() as store:
        events = store.history(task)
        if at is not None:
            print_rows([vars(target) for target in store.aliases_at(task, at)], options.fmt)
            return
    print_rows([{**vars(event), "sha256": event.sha256} for event in events], options.fmt, EVENT)


@app.command(epilog=example("diff flowers:3 flowers:4", "diff flowers@prod flowers --format json"))
@with_store()
def diff(
    options: StoreOptions,
    left: Annotated[str, typer.Argument(help=REF_HELP)],
    right: Annotated[str, typer.Argument(help=REF_HELP)],
) -> None:
    """Show where two versions differ. Depth, method, accuracy, bytes, labels and lineage are compared."""
    from store.registry.diff import diff as diff_of

    with options.open_read_only() as store:
        differences = diff_of(store, left, right)
    if options.fmt is Format.JSON:
        typer.echo(to_json([asdict(row) for row in differences]))
    else:
        print_rows([readable(row) for row in differences], options.fmt)
    if not differences:
        log_to_stderr("no difference")


def readable(row: Difference) -> Record:
    from store.records.evidence import Accuracy

    def read(value: object) -> object:
        if isinstance(value, Mapping):
            return with_interval(Accuracy(value["correct"], value["total"]))
        if isinstance(value, str) and value.startswith("sha256:"):
            return f"{value[:19]}…"
        return cell(row.field, value) if row.field == "nbytes" else value

    return {"field": row.field, "left": read(row.left), "right": read(row.right)}
