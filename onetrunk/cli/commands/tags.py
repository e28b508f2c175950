"""Commands for tags: KEY=VALUE of a task or a version, to search by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import command_group, example
from onetrunk.cli.output import print_rows
from onetrunk.cli.parsing import parse_pairs

if TYPE_CHECKING:
    from store.registry.read_only_store import ReadOnlyStore

app = command_group()
tag_app = command_group("Tags: KEY=VALUE of a task or a version, to search by.")
app.add_typer(tag_app, name="tag")


@tag_app.command("set", epilog=example("tag set flowers team=garden", "tag set flowers@prod approved-by=me ticket=42"))
@with_store(write=True, fmt=False)
def set_tags(
    options: StoreOptions,
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Tags to set.")],
) -> None:
    """Set tags of a task or of a version."""
    change_tags(options, target, parse_pairs(pairs, option="tag"))


@tag_app.command("rm", epilog=example("tag rm flowers team", "tag rm flowers:3 approved-by"))
@with_store(write=True, fmt=False)
def remove_tags(
    options: StoreOptions,
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Tags to remove.")],
) -> None:
    """Remove tags of a task or of a version. A tag that does not exist is not an error."""
    change_tags(options, target, dict.fromkeys(keys))


def change_tags(options: StoreOptions, target: str, values: Mapping[str, str | None]) -> None:
    with options.open() as store:
        task, version = parse_target(store, target)
        for key, value in values.items():
            store.set_tag(task, key, value, version=version)


@tag_app.command("ls", epilog=example("tag ls flowers", "tag ls flowers:3 --format json"))
@with_store()
def list_tags(
    options: StoreOptions,
    target: Annotated[str, typer.Argument(help="TASK for the task itself; any other REF for that version.")],
) -> None:
    """List the tags of a task or of a version."""
    with options.open_read_only() as store:
        tags = store.tags(*parse_target(store, target))
    print_rows([{"key": key, "value": value} for key, value in tags.items()], options.fmt)


def parse_target(store: ReadOnlyStore, target: str) -> tuple[str, int | None]:
    """Return the task and, unless the target is the task itself, the version's number."""
    from store.records.refs import Ref

    ref = Ref.parse(target)
    return (ref.task, None) if ref.task == target else (ref.task, store.resolve(target).number)
