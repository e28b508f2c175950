"""Options that belong together reach a command as one object, and the command line as if they were its own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import typer
from typer.testing import CliRunner

from onetrunk.cli.option_groups import OptionGroup, StoreOptions, with_groups, with_store
from onetrunk.cli.output import Format


@dataclass(frozen=True)
class Size(OptionGroup):
    width: int = 3
    height: int = 4


def run(command, *words: str, **environment: str) -> list[object]:
    """Run the command with these words, and return what it was called with."""
    app, calls = typer.Typer(), []
    app.command()(command(calls))
    result = CliRunner().invoke(app, list(words), env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return calls


def shape(calls: list[object]):
    @with_store(write=True)
    @with_groups
    def command(options: StoreOptions, name: str, *, size: Size, fmt_of: str = "plain") -> None:
        calls.extend([options, name, size, fmt_of])

    return command


def test_a_command_gets_its_groups_made_of_the_options():
    calls = run(shape, "box", "--height", "7", "--store", "here", "--format", "csv", ONETRUNK_ACTOR="ann")
    assert calls == [StoreOptions("here", None, "ann", Format.CSV), "box", Size(3, 7), "plain"]


def test_options_come_in_the_order_of_the_signature_and_those_of_the_store_last():
    names = list(inspect.signature(shape([])).parameters)
    assert names == ["name", "width", "height", "fmt_of", "store", "catalogue", "actor", "fmt"]


def test_a_command_that_only_reads_takes_no_actor_and_may_have_a_format_of_its_own():
    @with_store(fmt=False)
    def command(options: StoreOptions, fmt: str = "html") -> None: ...

    assert list(inspect.signature(command).parameters) == ["store", "catalogue", "fmt"]
    assert command.__name__ == "command"
