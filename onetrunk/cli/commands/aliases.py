"""Commands for aliases and for the rules of moving them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import Force, command_group, example
from onetrunk.cli.output import print_rows
from onetrunk.rendering.tables import Record
from store.errors import InvalidSettingError

if TYPE_CHECKING:
    from store.records.events import AliasRule
    from store.registry.read_only_store import ReadOnlyStore

app = command_group()
alias_app = command_group("Aliases, which move from version to version, and their rules.")
app.add_typer(alias_app, name="alias")


@alias_app.command("set", epilog=example("alias set flowers prod 3"))
@with_store(write=True, fmt=False)
def set_alias(
    options: StoreOptions,
    task: str,
    alias: str,
    version: int,
    force: Force = False,
) -> None:
    """Point an alias at a version. A running server follows within a second."""
    with options.open() as store:
        store.set_alias(task, alias, version, force=force)


@alias_app.command("rm", epilog=example("alias rm flowers staging"))
@with_store(write=True, fmt=False)
def remove_alias(
    options: StoreOptions,
    task: str,
    alias: str,
    force: Force = False,
) -> None:
    """Remove an alias. Its versions stay."""
    with options.open() as store:
        store.remove_alias(task, alias, force=force)


@alias_app.command("ls", epilog=example("alias ls flowers", "alias ls --format json"))
@with_store()
def list_aliases(
    options: StoreOptions,
    task: Annotated[str | None, typer.Argument(help="Its aliases, and the rules for them; default: all rules.")] = None,
) -> None:
    """List the aliases of a task with their rules, or every rule."""
    with options.open_read_only() as store:
        rows = [rule_row(rule) for rule in store.rules()] if task is None else alias_rows(store, task)
    print_rows(rows, options.fmt)


def alias_rows(store: ReadOnlyStore, task: str) -> list[Record]:
    versions = store.aliases(task)
    rules: dict[str, AliasRule] = {}
    for rule in store.rules(task):  # a task's own come first
        rules.setdefault(rule.alias, rule)
    blank = {"rule": None, "protected": False, "max_drop": None, "min_accuracy": None}
    return [
        {
            "alias": alias,
            "version": versions.get(alias),
            **(rule_row(rules[alias], of_task=True) if alias in rules else blank),
        }
        for alias in sorted({*versions, *rules})
    ]


def rule_row(rule: AliasRule, *, of_task: bool = False) -> Record:
    place = {"rule": f"{rule.task}@{rule.alias}"} if of_task else {"task": rule.task, "alias": rule.alias}
    return {**place, "protected": rule.protected, "max_drop": rule.max_drop, "min_accuracy": rule.min_accuracy}


@alias_app.command("rule", epilog=example(
    "alias rule flowers prod --protect --max-drop 1",
    "alias rule 'garden/*' prod --min-accuracy 0.9",
    "alias rule '*' prod --protect",
    "alias rule flowers prod --clear",
))  # fmt: skip
@with_store(write=True)
def set_rule(
    options: StoreOptions,
    task: Annotated[str, typer.Argument(help="TASK, 'TENANT/*' or '*'; the most specific rule applies.")],
    alias: str,
    protect: Annotated[
        bool | None, typer.Option("--protect/--no-protect", help="Move the alias only with --force.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of accuracy that the cut may cost at most, 0 to 100.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Accuracy that the cut must have at least, 0 to 1.")
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Drop all requirements, then set those that are given.")
    ] = False,
) -> None:
    """Set what a version must have before an alias moves to it. What is not given stays as it is."""
    from store.records.events import AliasRule

    if protect is None and max_drop is None and min_accuracy is None and not clear:
        raise InvalidSettingError("no rule was given: add --protect, --max-drop, --min-accuracy or --clear")
    with options.open() as store:
        rules = [rule for rule in store.rules() if (rule.task, rule.alias) == (task, alias) and not clear]
        rule = rules[0] if rules else AliasRule(task, alias)
        rule = replace(
            rule,
            protected=rule.protected if protect is None else protect,
            max_drop=rule.max_drop if max_drop is None else max_drop,
            min_accuracy=rule.min_accuracy if min_accuracy is None else min_accuracy,
        )
        store.set_rule(rule)
    print_rows([rule_row(rule)], options.fmt)
