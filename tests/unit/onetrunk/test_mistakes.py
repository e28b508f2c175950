"""Twelve mistakes, through Python and through the command line: one typed line each, with value, rule and remedy.

A remedy is in the words of the API; where the command line has other words for it, it adds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.cli import call
from support.mistakes import World

import onetrunk
from onetrunk import errors
from onetrunk.cli.hints import HINTS


@dataclass(frozen=True)
class Mistake:
    """How it is made in both ways, and what the line must have; `{…}` in words are paths of the world."""

    name: str
    error: type[errors.OnetrunkError]
    value: str
    remedy: str
    make: Callable[[World], object]
    words: str
    code: int = 1


def in_store(make: Callable[[onetrunk.Store, World], object]) -> Callable[[World], object]:
    def call_with_store(world: World) -> object:
        with onetrunk.open_store(world.store) as store:
            return make(store, world)

    return call_with_store


def publish(folder: str, *, backbone: str = "toy/vit", depth: int | None = 2) -> Callable[[World], object]:
    return in_store(lambda store, world: store.publish("roses", world.input(folder), backbone=backbone, depth=depth))


def predict(store: onetrunk.Store, world: World) -> object:
    with onetrunk.Predictor(store, backbone="toy/vit") as predictor:
        return predictor.predict("flowers", world.input("text.png"))


TOY = "--backbone toy/vit --depth 2"
MISTAKES = [
    Mistake(
        "unknown task",
        errors.TaskNotFoundError,
        "'flower'",
        "`store.search()`",
        in_store(lambda store, _: store.resolve("flower")),
        "show flower",
    ),
    Mistake(
        "unknown alias",
        errors.VersionNotFoundError,
        "'flowers@staging'",
        "aliases latest, prod; name one of these",
        in_store(lambda store, _: store.resolve("flowers@staging")),
        "show flowers@staging",
    ),
    Mistake(
        "wrong backbone",
        errors.BackboneMismatchError,
        "other/vit is ",
        "`adopt_backbone(store, name)`",
        publish("carded", backbone="other/vit", depth=None),
        "publish roses {root}/carded --backbone other/vit",
    ),
    Mistake(
        "torn safetensors file",
        errors.FormatError,
        "adapter_model.safetensors is cut short: 26276 bytes",
        "save it again with safetensors",
        publish("torn"),
        f"publish roses {{root}}/torn {TOY}",
    ),
    Mistake(
        "rank mismatch",
        errors.AdapterMismatchError,
        "'blocks.0.attn.proj' has factors of shapes {'lora_A.weight': (4, 48)",
        "use the adapter with the backbone it was tuned on",
        publish("another_rank"),
        f"publish roses {{root}}/another_rank {TOY}",
    ),
    Mistake(
        "missing head",
        errors.FormatError,
        "headless has no head.safetensors",
        "a task's folder holds adapter_config.json",
        publish("headless"),
        f"publish roses {{root}}/headless {TOY}",
    ),
    Mistake(
        "unreadable image",
        errors.ImageError,
        "b'not an i'",
        "send a JPEG, PNG",
        in_store(predict),
        "predict flowers {root}/text.png",
    ),
    Mistake(
        "bad ref syntax",
        errors.InvalidNameError,
        "'flowers@'",
        "write TASK, TASK@ALIAS",
        in_store(lambda store, _: store.resolve("flowers@")),
        "show flowers@",
        code=2,
    ),
    Mistake(
        "protected alias",
        errors.NotAllowedError,
        "'prod' of flowers",
        "`force=True`",
        in_store(lambda store, _: store.set_alias("flowers", "prod", 2)),
        "alias set flowers prod 2",
    ),
    Mistake(
        "store that does not exist",
        errors.StoreNotFoundError,
        "nowhere",
        "`open_store(url, create=True)`",
        lambda world: onetrunk.open_store(world.input("nowhere")),
        "ls --store {root}/nowhere",
    ),
    Mistake(
        "depth above the backbone's blocks",
        errors.AdapterMismatchError,
        "depth 9",
        "outside 1..4, the blocks of toy/vit",
        publish("right", depth=9),
        "publish roses {root}/right --backbone toy/vit --depth 9",
    ),
]


def test_the_table_has_a_mistake_of_each_kind():
    assert len({mistake.name for mistake in MISTAKES}) + len(["unknown criterion, below"]) == 12


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_in_python_it_is_one_typed_line_with_value_and_remedy(mistake, world):
    with pytest.raises(errors.OnetrunkError) as raised:
        mistake.make(world)
    message = str(raised.value)
    assert type(raised.value) is mistake.error
    assert mistake.value in message
    assert mistake.remedy in message
    assert "\n" not in message
    assert "--" not in message


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_at_the_command_line_it_is_the_same_line_with_the_flag_or_the_command(mistake, world):
    done = call(*mistake.words.format(root=world.root).split(), store=world.store)
    (line,) = done.err.splitlines()
    assert (done.code, done.out) == (mistake.code, "")
    assert line.startswith(f"{mistake.error.__name__}: ")
    assert mistake.value in line
    assert mistake.remedy in line
    assert HINTS.get(mistake.remedy.strip("`"), "") in line


def test_an_unknown_criterion_is_told_the_known_ones_by_the_library_and_by_the_command_line(world):
    with pytest.raises(errors.InvalidSettingError, match="criterion 'nope' is unknown: choose one of sls, ") as raised:
        onetrunk.ScoreConfig(criterion="nope")
    assert type(raised.value) is errors.InvalidSettingError
    done = call("cut", "flowers", "onetrunk/digits", "--criterion", "nope", store=world.store)
    assert (done.code, done.out) == (2, "")
    assert "Invalid value for '--criterion': 'nope' is not one of 'sls', " in done.err.splitlines()[-1]
