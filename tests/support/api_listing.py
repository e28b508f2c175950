"""The public API as text: every name of `onetrunk.__all__` with its signature, a class with its public members."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import onetrunk

PACKAGES = ("onetrunk", "store", "serving", "sls")


def listing() -> str:
    return "".join(f"{line}\n" for name in onetrunk.__all__ for line in describe(name, getattr(onetrunk, name)))


def describe(name: str, value: object) -> Iterator[str]:
    if isinstance(value, ModuleType):
        errors = [each for each in vars(value).values() if inspect.isclass(each) and each.__module__ == value.__name__]
        yield f"module {name}"
        yield from (f"    class {each.__name__}{signature(each)}" for each in errors)
    elif inspect.isclass(value):
        yield f"class {name}{signature(value)}"
        yield from (f"    {line}" for line in members(value))
    else:
        yield f"def {name}{signature(value)}"


def members(kind: type) -> Iterator[str]:
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    own = {name for base in kind.__mro__ if base.__module__.partition(".")[0] in PACKAGES for name in vars(base)}
    for name, value in sorted(inspect.getmembers(kind)):
        if name.startswith("_") or name in fields or name not in own:
            continue
        if isinstance(value, property):
            yield f"{name}: {inspect.signature(value.fget).return_annotation}"
        elif callable(value):
            yield f"def {name}{signature(value)}"


def signature(value: Any) -> str:
    """Return the signature in one line, annotations as they are written."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return f"({', '.join(base.__name__ for base in value.__bases__)})"
    found = inspect.signature(value)
    parameters = [each.replace(annotation=_written(each.annotation)) for each in found.parameters.values()]
    text = str(found.replace(parameters=parameters, return_annotation=_written(found.return_annotation)))
    return re.sub(r"<factory>|<function (\w+) at 0x[0-9a-f]+>", lambda match: match[1] or "…", text)


def _written(annotation: Any) -> Any:
    return annotation if annotation is inspect.Signature.empty else _Written(annotation)


class _Written:
    """An annotation that prints as the source has it."""

    def __init__(self, annotation: Any) -> None:
        self._text = getattr(annotation, "__forward_arg__", annotation)

    def __repr__(self) -> str:
        return self._text if isinstance(self._text, str) else inspect.formatannotation(self._text)
