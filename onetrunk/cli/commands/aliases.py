"""Commands for aliases, for splitting them among versions and for the rules of moving them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from onetrunk.cli.option_groups import StoreOptions, with_store
from onetrunk.cli.options import Force, command_group, example
from onetrunk.cli.output import log_to_stderr, print_record, print_rows
from onetrunk.rendering.tables import Record
from store.errors import InvalidSettingError
from store.records.splits import LEAST_OVER, MOST_OVER, OVER, SplitOptions, parse_share, parse_shares

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
    splits = {split.alias: split.words for split in store.splits(task)} if versions else {}
    blank = {"rule": None, "protected": False, "max_drop": None, "min_accuracy": None}
    return [
        {
            "alias": alias,
            "version": versions.get(alias),
            "split": splits.get(alias),
            **(rule_row(rules[alias], of_task=True) if alias in rules else blank),
        }
        for alias in sorted({*versions, *rules})
    ]


def rule_row(rule: AliasRule, *, of_task: bool = False) -> Record:
    place = {"rule": f"{rule.task}@{rule.alias}"} if of_task else {"task": rule.task, "alias": rule.alias}
    return {**place, "protected": rule.protected, "max_drop": rule.max_drop, "min_accuracy": rule.min_accuracy}


@alias_app.command("split", epilog=example(
    "alias split flowers prod 3=90 4=10",
    "alias split flowers prod 3=95 4=5 --rollback-if 'errors>1%' --rollback-if 'p99_ms>250' --over 1000",
    "alias split flowers prod --shadow 4=10 --rollback-if 'disagreement>5%'",
    "alias split flowers prod --overload 2",
    "alias split flowers prod --end",
))  # fmt: skip
@with_store(write=True)
def split_alias(
    options: StoreOptions,
    task: str,
    alias: str,
    shares: Annotated[
        list[str] | None,
        typer.Argument(help="VERSION=PERCENT, the stable version first; default: the alias's own with 100."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(metavar="VERSION=PERCENT", help="Ask this version too, compare its answer and never send it."),
    ] = None,
    overload: Annotated[
        int | None, typer.Option(metavar="VERSION", help="Shallower version that answers what would come too late.")
    ] = None,
    rollback_if: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="End the split on 'errors>1%', 'disagreement>5%' or 'p99_ms>250'."),
    ] = None,
    over: Annotated[
        int, typer.Option(min=LEAST_OVER, max=MOST_OVER, help="Requests of a candidate that a rule looks at.")
    ] = OVER,
    promote: Annotated[
        bool, typer.Option("--promote", help="After so many requests within the rules, move the alias to it.")
    ] = False,
    end: Annotated[bool, typer.Option("--end", help="Send every request to the stable version again.")] = False,
    force: Force = False,
) -> None:
    """Split the requests for an alias among versions. It holds until the alias moves, or a rule ends it."""
    from store.registry.splits import end_split
    from store.registry.splits import split_alias as split

    given = SplitOptions(
        None if shadow is None else parse_share(shadow), overload, tuple(rollback_if or ()), over, promote
    )
    if end and (shares or given != SplitOptions(over=over)):
        raise InvalidSettingError("the split is ended or made: leave out --end, or everything else")
    with options.open() as store:
        if end:
            log_to_stderr(f"all requests go to version {end_split(store, task, alias, force=force).stable}")
            return
        made = split(store, task, alias, parse_shares(shares or []), options=given, force=force)
    print_record(made.to_dict(), options.fmt, {"task": task, "alias": alias, "split": made.words})


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
