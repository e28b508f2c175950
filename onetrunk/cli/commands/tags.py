"""Commands for tags: KEY=VALUE of a task or a version, to search by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.options import STORE, Actor, Catalogue, StoreUrl, command_group, example
from onetrunk.cli.output import Format, FormatOption, print_rows
from onetrunk.cli.parsing import parse_pairs
from onetrunk.stores import open_read_only, open_store

if TYPE_CHECKING:
    from store.registry.read_only_store import ReadOnlyStore

app = command_group()
tag_app = command_group("Tags: KEY=VALUE of a task or a version, to search by.")
app.add_typer(tag_app, name="tag")


@tag_app.command("set", epilog=example("tag set flowers team=garden", "tag set flowers@prod approved-by=me ticket=42"))
def set_tags(
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="What to set.")],
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Set tags of a task or of a version."""
    change_tags(target, parse_pairs(pairs, option="tag"), store=store, catalogue=catalogue, actor=actor)


@tag_app.command("rm", epilog=example("tag rm flowers team", "tag rm flowers:3 approved-by"))
def remove_tags(
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="What to take away.")],
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Take tags of a task or of a version away. One that is not there is no mistake."""
    change_tags(target, dict.fromkeys(keys), store=store, catalogue=catalogue, actor=actor)


def change_tags(
    target: str, values: Mapping[str, str | None], *, store: str, catalogue: str | None, actor: str | None
) -> None:
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        task, version = tagged(opened, target)
        for key, value in values.items():
            opened.set_tag(task, key, value, version=version)


@tag_app.command("ls", epilog=example("tag ls flowers", "tag ls flowers:3 --format json"))
def list_tags(
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List the tags of a task or of a version."""
    with open_read_only(store, catalogue=catalogue) as opened:
        found = opened.tags(*tagged(opened, target))
    print_rows([{"key": key, "value": value} for key, value in found.items()], fmt)


def tagged(shelf: ReadOnlyStore, target: str) -> tuple[str, int | None]:
    """Return the task, and the number where a version is meant and not the task itself."""
    from store.records.refs import Ref

    ref = Ref.parse(target)
    return (ref.task, None) if ref.task == target else (ref.task, shelf.resolve(target).version)
