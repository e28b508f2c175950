"""Errors of the library name the API, and the command line adds its own words for the remedy."""

from __future__ import annotations

import re
from itertools import pairwise

import click
import pytest
import typer
from support.cli import commands
from support.source_strings import SourceString, source_strings

from onetrunk.cli.app import FILES, assemble
from onetrunk.cli.hints import HINTS, with_hint

LIBRARY = ("store", "serving", "sls", "onetrunk/many")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(rf"`onetrunk |\bonetrunk (?:{'|'.join(FILES)})\b")
OTHER_PROGRAMS = {
    "serving/cluster/fork_client.py": "options of Ray's workers",
    "serving/cluster/listeners.py": "the name of a process",
    "sls/pipeline/git_commit.py": "options of git",
    "store/accounting/pictures/style.py": "names of CSS",
}
"""Files of the library that name commands and options of programs, which are no remedies."""


@pytest.fixture(scope="module")
def strings() -> list[SourceString]:
    return list(source_strings(*LIBRARY))


def parameters_of(*words: str) -> list[click.Parameter]:
    """Return the parameters of a command, or of all commands if none is named."""
    app = assemble()
    parameters: list[click.Parameter] = []
    for names in [words] if words else commands(app):
        command: click.Command = typer.main.get_command(app)
        for name in names:
            command = command.commands[name]
        parameters += command.params
    return parameters


def options_of(*words: str) -> set[str]:
    return {option for parameter in parameters_of(*words) for option in parameter.opts}


def choices_of(option: str) -> set[str]:
    """Return the words that an option takes, where it takes only some."""
    types = [parameter.type for parameter in parameters_of() if option in parameter.opts]
    return {str(choice) for kind in types for choice in getattr(kind, "choices", ())}


def test_every_remedy_of_the_table_is_in_a_message_of_the_library(strings):
    assert [key for key in HINTS if not any(f"`{key}`" in string.text for string in strings)] == []


def test_no_string_of_the_library_names_an_option_or_a_command(strings):
    own = [string for string in strings if string.path not in OTHER_PROGRAMS]
    assert [str(string) for string in own if OPTION.search(string.text) or COMMAND.search(string.text)] == []


@pytest.mark.parametrize("hint", [hint for hint in HINTS.values() if hint.startswith("onetrunk ")])
def test_a_hint_that_is_a_command_can_be_typed(hint):
    words = hint.split()[1:]
    (command,) = [known for known in commands(assemble()) if tuple(words[: len(known)]) == known]
    assert set(OPTION.findall(hint)) <= options_of(*command)
    options = ("", *words[len(command) :])
    assert all(word.isupper() or OPTION.match(word) or word in choices_of(before) for before, word in pairwise(options))


@pytest.mark.parametrize("hint", [hint for hint in HINTS.values() if not hint.startswith("onetrunk ")])
def test_a_hint_that_is_an_option_is_one_of_some_command(hint):
    option, *value = hint.split()
    assert option in options_of()
    assert all(word.isupper() or word in choices_of(option) for word in value)


def test_a_message_gets_the_hints_of_the_remedies_that_it_names_and_no_other():
    assert with_hint("no depth: give `depth=`, or see `store.search()`") == (
        "no depth: give `depth=`, or see `store.search()` (--depth N, onetrunk ls)"
    )
    assert with_hint("the disk is full") == "the disk is full"


def test_the_table_is_in_order():
    assert list(HINTS) == sorted(HINTS)
