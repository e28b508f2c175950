"""Commands for backbones, which all tasks of a store share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.options import STORE, Actor, Catalogue, DryRun, StoreUrl, Yes, command_group, example
from onetrunk.cli.output import Format, FormatOption, confirm, log_to_stderr, print_rows
from onetrunk.rendering.tables import Record, to_json
from onetrunk.stores import open_read_only, open_store
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.records.backbone import BackboneRecord

app = command_group()
backbone_app = command_group("Backbones: add, list, show, remove.")
app.add_typer(backbone_app, name="backbone")


@backbone_app.command("add", epilog=example(
    "backbone add onetrunk/vit_tiny_64",
    "backbone add vit_base_patch16_224.augreg_in21k",
    "backbone add vit_small_patch16_224 --weights my.safetensors --arg img_size=96 --as mine/vit_small_96",
))  # fmt: skip
def add_backbone(
    name: Annotated[
        str, typer.Argument(help="A packaged name, a timm name, hf-hub:…, or with --weights an architecture.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Local safetensors file of the architecture.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for timm's create_model; may be repeated.")] = None,
    label: Annotated[str | None, typer.Option("--as", help="Name to keep it under.")] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Leave the weights where they are, pinned by fingerprint.")
    ] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Add a backbone to the store. Its weights are kept once, for all tasks."""
    from store.weights.backbones import encode, load_backbone

    found = load_backbone(name, weights=weights, arguments=parse_arguments(arg or []), label=label)
    if by_reference and weights is not None:
        raise InvalidSettingError("--by-reference cannot find a local file again: leave one of the two options out")
    with open_store(store, create=True, catalogue=catalogue, actor=actor) as opened:
        record = opened.add_backbone(found.record, None if by_reference else encode(found))
    print_rows([backbone_row(record)], fmt)


@backbone_app.command("ls", epilog=example("backbone ls --format json"))
def list_backbones(store: StoreUrl = STORE, catalogue: Catalogue = None, fmt: FormatOption = Format.TABLE) -> None:
    """List the backbones of the store."""
    with open_read_only(store, catalogue=catalogue) as opened:
        print_rows([backbone_row(record) for record in opened.backbones()], fmt)


@backbone_app.command("show", epilog=example("backbone show onetrunk/vit_tiny_64"))
def show_backbone(name: str, store: StoreUrl = STORE, catalogue: Catalogue = None) -> None:
    """Show a backbone's record as JSON."""
    with open_read_only(store, catalogue=catalogue) as opened:
        typer.echo(to_json(asdict(opened.backbone(name))))


@backbone_app.command("rm", epilog=example("backbone rm onetrunk/vit_tiny_64 --dry-run"))
def remove_backbone(
    name: str,
    dry_run: DryRun = False,
    yes: Yes = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Forget a backbone that no version stands on. `gc` frees its weights."""
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        record = opened.backbone(name)
        usage = opened.backbone_usage(name)
        if not dry_run:
            confirm(f"forget backbone {record.name}?", yes=yes or usage.versions > 0)  # with users it is refused
            opened.remove_backbone(name)
    freed_nbytes = 0 if usage.versions else usage.own_nbytes
    print_rows([{"name": record.name, "versions": usage.versions, "freed_nbytes": freed_nbytes}], fmt)
    if dry_run:
        log_to_stderr("nothing was changed: this is what it would do")


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
