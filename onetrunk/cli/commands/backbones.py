"""Commands for backbones, which all tasks of a store share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import DryRun, Yes, command_group, example
from onetrunk.cli.output import confirm, log_dry_run, print_rows
from onetrunk.cli.parsing import parse_pairs
from onetrunk.rendering.tables import Record, to_json
from onetrunk.workflows import add_backbone, order_backbone
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.records.backbone import BackboneRecord

app = command_group()
backbone_app = command_group("Backbones: add, list, show, remove.")
app.add_typer(backbone_app, name="backbone")


@backbone_app.command("add", epilog=example(
    "backbone add onetrunk/vit_tiny_64.v2",
    "backbone add vit_base_patch16_224.augreg_in21k",
    "backbone add vit_small_patch16_224 --weights my.safetensors --arg img_size=96 --as mine/vit_small_96",
))  # fmt: skip
@with_store(write=True)
def add_to_store(
    options: StoreOptions,
    name: Annotated[
        str, typer.Argument(help="A packaged name, a timm name, hf-hub:…, or with --weights an architecture.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Local safetensors file of the architecture.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for timm's create_model; may be repeated.")] = None,
    label: Annotated[str | None, typer.Option("--as", help="Name in the store.")] = None,
    by_reference: Annotated[
        bool,
        typer.Option(
            "--by-reference",
            help="Do not copy the weights: load them from their source, pinned by fingerprint.",
        ),
    ] = False,
) -> None:
    """Add a backbone to the store. Its weights are kept once, for all tasks."""
    from store.weights.backbones import load_backbone

    backbone = load_backbone(name, weights=weights, arguments=parse_arguments(arg or []), label=label)
    if by_reference and weights is not None:
        raise InvalidSettingError("--by-reference cannot find a local file again: leave out one of the two options")
    with options.open(create=True) as store:
        record = add_backbone(store, backbone, by_reference=by_reference)
    print_rows([backbone_row(record)], options.fmt)


@backbone_app.command("order", epilog=example(
    "backbone order onetrunk/vit_tiny_64.v2 --as mine/ordered",
    "backbone order onetrunk/vit_tiny_64.v2 --as mine/ordered --by digits=onetrunk/digits --by blobs=./blobs",
))  # fmt: skip
@with_store(write=True)
def order_in_store(
    options: StoreOptions,
    name: Annotated[str, typer.Argument(help="A backbone of the store, a packaged one, or a timm name.")],
    label: Annotated[str, typer.Option("--as", help="Name of the copy.")],
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="REF=DATA", help="Order by what this task needs; may be repeated. Default: the weights."),
    ] = None,
) -> None:
    """Add a copy whose heads and MLP units are ordered by importance. Its tasks keep the first ones of each block."""
    from sls.data.loading import load_dataset

    tasks = {ref: load_dataset(data) for ref, data in parse_pairs(by or [], option="--by").items()}
    with options.open(create=True) as store:
        record = order_backbone(store, name, label, tasks=tasks)
    print_rows([backbone_row(record)], options.fmt)


@backbone_app.command("ls", epilog=example("backbone ls --format json"))
@with_store()
def list_backbones(options: StoreOptions) -> None:
    """List the backbones of the store."""
    with options.open_read_only() as store:
        print_rows([backbone_row(record) for record in store.backbones()], options.fmt)


@backbone_app.command("show", epilog=example("backbone show onetrunk/vit_tiny_64.v2"))
@with_store(fmt=False)
def show_backbone(options: StoreOptions, name: str) -> None:
    """Show a backbone's record as JSON."""
    with options.open_read_only() as store:
        typer.echo(to_json(asdict(store.backbone(name))))


@backbone_app.command("rm", epilog=example("backbone rm onetrunk/vit_tiny_64.v2 --dry-run"))
@with_store(write=True)
def remove_backbone(
    options: StoreOptions,
    name: str,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove a backbone that no version uses. `gc` frees its weights."""
    with options.open() as store:
        record = store.backbone(name)
        usage = store.backbone_usage(name)
        if not dry_run:
            confirm(f"remove backbone {record.name}?", yes=yes or usage.versions > 0)  # with users it is refused
            store.remove_backbone(name)
    freed_nbytes = 0 if usage.versions else usage.own_nbytes
    print_rows([{"name": record.name, "versions": usage.versions, "freed_nbytes": freed_nbytes}], options.fmt)
    if dry_run:
        log_dry_run()


def backbone_row(record: BackboneRecord) -> Record:
    return {
        "name": record.name,
        "architecture": record.id.architecture,
        "blocks": record.blocks,
        "dim": record.dim,
        "nbytes": record.nbytes,
        "kept": record.source if record.weights is None else "in the store",
        "fingerprint": record.id.fingerprint,
    }


def parse_arguments(pairs: Sequence[str]) -> dict[str, object]:
    """Read KEY=VALUE pairs, values as JSON where they are JSON."""
    arguments: dict[str, object] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.isidentifier():
            raise InvalidSettingError(f"--arg {pair!r} is not KEY=VALUE: write for example --arg img_size=96")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments
