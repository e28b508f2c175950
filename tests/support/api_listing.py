"""The public API as text: every name of `onetrunk.__all__` with its signature, a class with its public members."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import onetrunk


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
    for name, value in sorted(inspect.getmembers(kind)):
        if name.startswith("_") or name in fields or value in vars(tuple).values():
            continue
        if isinstance(value, property):
            yield f"{name}: {inspect.signature(value.fget).return_annotation}"
        elif callable(value):
            yield f"def {name}{signature(value)}"


def signature(value: object) -> str:
    """Return the signature in one line; what its defaults look like in memory is not part of the API."""
    if inspect.isclass(value) and issubclass(value, BaseException):
        return f"({', '.join(base.__name__ for base in value.__bases__)})"
    text = str(inspect.signature(value)).replace("'", "")
    return re.sub(r"<factory>|<function (\w+) at 0x[0-9a-f]+>", lambda match: match[1] or "…", text)
