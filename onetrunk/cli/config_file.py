"""A TOML file whose keys are the names of a command's options: their defaults, which the command line goes before."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path

import typer

from store.adapters.regular_file import read_regular
from store.errors import FormatError, InvalidSettingError

MAX_NBYTES = 1 << 20
UNNAMED = frozenset({"config", "help"})


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values as the defaults of the command's options; raise `InvalidSettingError`."""
    if path is None or context.resilient_parsing:
        return path
    options = {
        name.removeprefix("--"): parameter.name
        for parameter in context.command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    defaults: dict[str, object] = {}
    for key, value in _values(path).items():
        name = key.replace("_", "-")
        if name not in options or name in UNNAMED:
            close = difflib.get_close_matches(name, options.keys() - UNNAMED, n=1)
            hint = f"did you mean {close[0]}?" if close else "write an option of the command without its dashes"
            raise InvalidSettingError(f"{path}: {key!r} is not an option: {hint}")
        if isinstance(value, dict) or value != value:  # a number that is none
            raise InvalidSettingError(f"{path}: {key} is {value!r:.80}: give it a value, such as {key} = 1")
        defaults[str(options[name])] = value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _values(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_regular(path, limit=MAX_NBYTES).decode())
    except FileNotFoundError:
        raise InvalidSettingError(f"no file {path}: give a TOML file with options, such as lr = 0.001") from None
    except (FormatError, ValueError, RecursionError) as error:
        raise InvalidSettingError(f"{path} is not TOML in UTF-8 ({error}): write options such as lr = 0.001") from None
