"""Commands for the names of versions: aliases that move, the rules for moving them, and tags to search by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk_cli import (
    STORE,
    Actor,
    Catalogue,
    Force,
    Format,
    FormatOption,
    StoreUrl,
    command_group,
    example,
    open_shelf,
    open_store,
    parse_pairs,
    print_rows,
)
from store.errors import InvalidSettingError
from store.render import Row

if TYPE_CHECKING:
    from store.events import AliasRule
    from store.shelf import Shelf

app = command_group()
alias_app = command_group("Aliases, which move from version to version, and their rules.")
tag_app = command_group("Tags: KEY=VALUE of a task or a version, to search by.")
app.add_typer(alias_app, name="alias")
app.add_typer(tag_app, name="tag")


@alias_app.command("set", epilog=example("alias set flowers prod 3"))
def set_alias(
    task: str,
    alias: str,
    version: int,
    force: Force = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Point an alias at a version. A running server follows within a second."""
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        opened.set_alias(task, alias, version, force=force)


@alias_app.command("rm", epilog=example("alias rm flowers staging"))
def remove_alias(
    task: str,
    alias: str,
    force: Force = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
) -> None:
    """Take an alias away. Its versions stay."""
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        opened.remove_alias(task, alias, force=force)


@alias_app.command("ls", epilog=example("alias ls flowers", "alias ls --format json"))
def list_aliases(
    task: Annotated[str | None, typer.Argument(help="Its aliases, and the rules for them; default: all rules.")] = None,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """List the aliases of a task with their rules, or every rule."""
    with open_shelf(store, catalogue=catalogue) as opened:
        rows = [rule_row(rule) for rule in opened.rules()] if task is None else alias_rows(opened, task)
    print_rows(rows, fmt)


def alias_rows(shelf: Shelf, task: str) -> list[Row]:
    named = shelf.aliases(task)
    rules: dict[str, AliasRule] = {}
    for rule in shelf.rules(task):  # a task's own come first
        rules.setdefault(rule.alias, rule)
    blank = {"rule": None, "protected": False, "max_drop": None, "min_accuracy": None}
    return [
        {
            "alias": alias,
            "version": named.get(alias),
            **(rule_row(rules[alias], of_task=True) if alias in rules else blank),
        }
        for alias in sorted({*named, *rules})
    ]


def rule_row(rule: AliasRule, *, of_task: bool = False) -> Row:
    place = {"rule": f"{rule.task}@{rule.alias}"} if of_task else {"task": rule.task, "alias": rule.alias}
    return {**place, "protected": rule.protected, "max_drop": rule.max_drop, "min_accuracy": rule.min_accuracy}


@alias_app.command("rule", epilog=example(
    "alias rule flowers prod --protect --max-drop 1",
    "alias rule 'garden/*' prod --min-accuracy 0.9",
    "alias rule '*' prod --protect",
    "alias rule flowers prod --clear",
))  # fmt: skip
def set_rule(
    task: Annotated[str, typer.Argument(help="TASK, 'TENANT/*' or '*': the nearest rule holds.")],
    alias: str,
    protect: Annotated[bool | None, typer.Option("--protect/--no-protect", help="Only --force moves it.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points that the cut may cost at most, 0 to 100.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Share of images right at the cut, 0 to 1.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Ask nothing, but for what else is given.")] = False,
    store: StoreUrl = STORE,
    catalogue: Catalogue = None,
    actor: Actor = None,
    fmt: FormatOption = Format.TABLE,
) -> None:
    """Say what an alias asks before it moves. What is not given stays as it is."""
    from store.events import AliasRule

    if protect is None and max_drop is None and min_accuracy is None and not clear:
        raise InvalidSettingError("no rule was given: add --protect, --max-drop, --min-accuracy or --clear")
    with open_store(store, catalogue=catalogue, actor=actor) as opened:
        kept = [rule for rule in opened.rules() if (rule.task, rule.alias) == (task, alias) and not clear]
        rule = kept[0] if kept else AliasRule(task, alias)
        rule = replace(
            rule,
            protected=rule.protected if protect is None else protect,
            max_drop=rule.max_drop if max_drop is None else max_drop,
            min_accuracy=rule.min_accuracy if min_accuracy is None else min_accuracy,
        )
        opened.set_rule(rule)
    print_rows([rule_row(rule)], fmt)


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
    with open_shelf(store, catalogue=catalogue) as opened:
        found = opened.tags(*tagged(opened, target))
    print_rows([{"key": key, "value": value} for key, value in found.items()], fmt)


def tagged(shelf: Shelf, target: str) -> tuple[str, int | None]:
    """Return the task, and the number where a version is meant and not the task itself."""
    from store.refs import Ref

    ref = Ref.parse(target)
    return (ref.task, None) if ref.task == target else (ref.task, shelf.resolve(target).version)
