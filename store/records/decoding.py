"""From JSON to frozen records, or a `FormatError` that says where and why not."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Set

from store.errors import FormatError, NewerFormatError

T = typing.TypeVar("T")
Decoder = Callable[[typing.Any], typing.Any]

PLAIN = (str, int, float, bool)
REMEDY = "restore the file or publish the task again"


class _WrongValueError(Exception):
    """A value that is not of its kind; the path to it grows on the way out."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path = ""


def decode(cls: type[T], data: bytes, source: str, *, newest: int) -> T:
    """Decode a record; raise `FormatError` on wrong keys or types, `NewerFormatError` on what a newer version wrote."""
    try:
        value = JSON.decode(data.decode())
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # JSON can spell lone surrogates, UTF-8 cannot
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} is not JSON ({error}): {REMEDY}") from None
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > newest:
        raise NewerFormatError(
            f"{source} has format {str(value['format'])[:20]}, this onetrunk reads up to {newest}: upgrade onetrunk"
        )
    try:
        return typing.cast(T, _decoder(typing.cast(typing.Any, cls))(value))
    except _WrongValueError as wrong:
        raise FormatError(f"{source}{wrong.path} {wrong.problem}: {REMEDY}") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_keys)
"""Made once: `json.loads` would make one for every record."""


@functools.cache
def _decoder(kind: typing.Any) -> Decoder:
    """Return what builds a value of this kind; made once, as a store may hold 100,000 records."""
    if dataclasses.is_dataclass(kind):
        return _record(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _optional(_decoder(next(option for option in arguments if option is not type(None))))
    if origin is tuple and arguments[-1] is Ellipsis:
        return _sequence(_decoder(arguments[0]), _plain_types(arguments[0]))
    if origin is tuple:
        return _tuple([_decoder(argument) for argument in arguments])
    if origin is Mapping:
        return _mapping(_decoder(arguments[1]))
    return _plain(kind)


def _record(kind: typing.Any) -> Decoder:
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    missing = dataclasses.MISSING
    required = {f.name for f in fields if f.default is missing and f.default_factory is missing}
    known = frozenset(f.name for f in fields)
    decoders = {f.name: _decoder(hints[f.name]) for f in fields}
    plain = {f.name: _plain_types(hints[f.name]) for f in fields}

    def build(value: typing.Any) -> typing.Any:
        _expect(value, dict, "an object")
        if frozenset(value) != known and not required <= value.keys() <= known:
            raise _WrongValueError(_key_problem(value.keys(), required, known))
        arguments = {}
        for key, item in value.items():
            arguments[key] = item if type(item) in plain[key] else _within(decoders[key], item, key)
        return kind(**arguments)

    return build


def _plain_types(kind: typing.Any) -> frozenset[type]:
    """Return the types of values that need no decoder: most are such, and a call costs more than all else here."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return frozenset(one for option in typing.get_args(kind) for one in (*_plain_types(option), type(None)))
    return frozenset({kind} & set(PLAIN))


def _key_problem(keys: Set[str], required: Set[str], known: Set[str]) -> str:
    unknown = sorted(keys - known)
    return f"has unknown key {unknown[0]!r}" if unknown else f"has missing key {sorted(required - keys)[0]!r}"


def _optional(decoder: Decoder) -> Decoder:
    return lambda value: None if value is None else decoder(value)


def _sequence(decoder: Decoder, plain: frozenset[type]) -> Decoder:
    def build(value: typing.Any) -> typing.Any:
        _expect(value, list, "a list")
        if plain.issuperset(map(type, value)):
            return tuple(value)
        return tuple([_within(decoder, item, index) for index, item in enumerate(value)])

    return build


def _tuple(decoders: list[Decoder]) -> Decoder:
    def build(value: typing.Any) -> typing.Any:
        _expect(value, list, "a list")
        if len(value) != len(decoders):
            raise _WrongValueError(f"has {len(value)} items, expected {len(decoders)}")
        return tuple(_within(decoder, value[index], index) for index, decoder in enumerate(decoders))

    return build


def _mapping(decoder: Decoder) -> Decoder:
    def build(value: typing.Any) -> typing.Any:
        _expect(value, dict, "an object")
        return {key: _within(decoder, item, key) for key, item in value.items()}

    return build


def _plain(kind: typing.Any) -> Decoder:
    def build(value: typing.Any) -> typing.Any:
        if kind is object or type(value) is kind:
            return value
        if kind is float and type(value) is int and abs(value) < 1 << 64:
            return float(value)
        raise _WrongValueError(f"is {str(value)[:80]!r}, expected {kind.__name__}")

    return build


def _within(decoder: Decoder, value: typing.Any, key: str | int) -> typing.Any:
    try:
        return decoder(value)
    except _WrongValueError as wrong:
        wrong.path = (f".{key}" if str(key).isidentifier() else f"[{key!r:.40}]") + wrong.path
        raise


def _expect(value: typing.Any, kind: type, name: str) -> None:
    if type(value) is not kind:
        raise _WrongValueError(f"is {type(value).__name__}, expected {name}")
