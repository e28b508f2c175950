"""Options that belong together: declared once, and given to each command that takes them as one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, get_type_hints

import typer

from onetrunk.cli.output import Format, FormatOption
from onetrunk.stores import open_catalogue, open_read_only, open_store

if TYPE_CHECKING:
    from store.registry.catalogue_reader import CatalogueReader
    from store.registry.read_only_store import ReadOnlyStore
    from store.registry.store import Store

STORE = "onetrunk-store"
StoreUrl = Annotated[
    str,
    typer.Option("--store", envvar="ONETRUNK_STORE", help="Folder, s3://BUCKET/PREFIX, gs:// or az:// of the store."),
]
Catalogue = Annotated[
    str | None,
    typer.Option(envvar="ONETRUNK_CATALOGUE", help="Database URL of the catalogue; default: SQLite in the folder."),
]
Actor = Annotated[
    str | None,
    typer.Option(envvar="ONETRUNK_ACTOR", help="Name that the history records; default: this user and machine."),
]

Command = Callable[..., None]


@dataclass(frozen=True)
class StoreOptions:
    """The store that a command opens, the actor that its history records, and the format of the output."""

    url: str = STORE
    catalogue: str | None = None
    actor: str | None = None
    fmt: Format = Format.TABLE

    def open(self, *, create: bool = False) -> Store:
        return open_store(self.url, create=create, catalogue=self.catalogue, actor=self.actor)

    def open_read_only(self) -> ReadOnlyStore:
        return open_read_only(self.url, catalogue=self.catalogue)

    def open_catalogue(self) -> CatalogueReader:
        return open_catalogue(self.url, catalogue=self.catalogue)


def with_store(
    *, write: bool = False, fmt: bool = True
) -> Callable[[Callable[Concatenate[StoreOptions, ...], None]], Command]:
    """Pass `StoreOptions` to the command as its first argument, and add their options after the command's own.

    `write` adds --actor to --store and --catalogue, `fmt` adds --format. A command's own --format stays last.
    """
    added = [_option("store", StoreUrl, STORE), _option("catalogue", Catalogue, None)]
    added += [_option("actor", Actor, None)] * write + [_option("fmt", FormatOption, Format.TABLE)] * fmt

    def decorate(command: Callable[Concatenate[StoreOptions, ...], None]) -> Command:
        def call(**values: Any) -> None:
            chosen = {option.name: values.pop(option.name) for option in added}
            command(StoreOptions(chosen.pop("store"), **chosen), **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        return _declare(call, command, sorted([*own, *added], key=lambda option: option.name == "fmt"))

    return decorate


class OptionGroup:
    """The base of frozen dataclasses whose fields are options: a field's type and default are the option's."""


def with_groups(command: Command) -> Command:
    """Replace each parameter that is an `OptionGroup` by the group's options, and pass the command the group."""
    parameters: list[Parameter] = []
    groups: dict[str, type[OptionGroup]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, OptionGroup):
            groups[parameter.name] = parameter.annotation
            parameters += _options(parameter.annotation)
        else:
            parameters.append(parameter)

    def call(*arguments: object, **values: object) -> None:
        for name, group in groups.items():
            values[name] = group(**{option.name: values.pop(option.name) for option in _options(group)})
        command(*arguments, **values)

    return _declare(call, command, parameters)


def _options(group: type[OptionGroup]) -> list[Parameter]:
    types = get_type_hints(group, include_extras=True)
    return [_option(field.name, types[field.name], field.default) for field in fields(group)]  # type: ignore[arg-type]


def _option(name: str, annotation: object, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _declare(call: Command, command: Command, parameters: Sequence[Parameter]) -> Command:
    """Return `call` with the name and the docstring of the command, and the parameters for typer to read."""
    functools.update_wrapper(call, command)
    keywords = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return call
