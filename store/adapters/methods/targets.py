"""Which modules PEFT adapts: target_modules and its kin, matched as PEFT matches them and without backtracking."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType

from store.adapters.methods.regex import Pattern, compile_pattern
from store.errors import UnservedAdapterError

Config = Mapping[str, object]

MAX_NAMES = 1 << 16  # characters in all module names and patterns of a config
MAX_PATTERNS = 1000  # of them in patterns that are more than a name, which take some 2 ms each at worst
MATCHED = ("target_modules", "exclude_modules", "feedforward_modules")
NAMING = (*MATCHED, "layers_pattern", "rank_pattern", "alpha_pattern", "lambda_pattern")
PLAIN = re.compile(r"(?:[\w.-]|\\[.d-])*")


def matches(config: Config, module: str) -> bool:
    """Say whether PEFT adapts the module of this full path."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _selects(excluded, module):
        return False
    if not _selects(targets, module):
        return False
    layers = config.get("layers_to_transform")
    by_suffix = isinstance(targets, list) and module not in targets
    return not by_suffix or layers is None or layers == [] or _layer_number(config, module) in _as_list(layers)


def resolve_pattern(config: Config, option: str, module: str, default: object) -> object:
    """Return what `rank_pattern` or `alpha_pattern` says: the value of the first pattern that the path ends with."""
    patterns = config.get(option) or {}
    if not isinstance(patterns, dict):
        raise UnservedAdapterError(f"option {option!r} must map patterns to numbers: save the adapter with PEFT again")
    for pattern, value in patterns.items():
        if _ends_with(module, pattern, option):
            return value
    return default


def is_feedforward(config: Config, module: str) -> bool:
    """Say whether IA3 scales the inputs of this module: its names are ends of paths, at a dot or not."""
    names = config.get("feedforward_modules")
    if isinstance(names, str):
        return _fullmatch(names, module, "feedforward_modules")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnservedAdapterError(
            f"option 'feedforward_modules' = {shorten(names)} must be a list of names, [] for none: "
            "save it so with PEFT"
        )
    return any(module.endswith(name) for name in names)


def check_patterns(config: Config) -> None:
    """Refuse what would take long to match: the work is bounded by the sizes allowed here."""
    names = [name for option in NAMING for name in _strings(config.get(option))]
    patterns = [*_strings(config.get("rank_pattern")), *_strings(config.get("alpha_pattern"))]
    patterns += [value for value in map(config.get, MATCHED) if type(value) is str]
    for kind, sizes, limit in (
        ("module names", map(len, names), MAX_NAMES),
        ("regular expressions", (len(p) for p in patterns if not PLAIN.fullmatch(p)), MAX_PATTERNS),
    ):
        size = sum(sizes)
        if size > limit:
            raise UnservedAdapterError(
                f"the config has {size} characters of {kind}, at most {limit} are served: name modules by full path"
            )


def _selects(targets: object, module: str) -> bool:
    if isinstance(targets, str):
        return _fullmatch(targets, module, "target_modules")
    tails = {module, *(module[match.end() :] for match in re.finditer(r"\.", module))}
    return any(isinstance(target, str) and target in tails for target in _as_list(targets))


def _layer_number(config: Config, module: str) -> int | None:
    """Return the first number in the path that PEFT takes for the layer's."""
    patterns = _as_list(config.get("layers_pattern") or [])
    expressions = [rf"(?:^|.*?\.){_plain_name(pattern)}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    layer_matches = (re.match(expression, module) for expression in expressions)
    return next((int(match.group(1)) for match in layer_matches if match), None)


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _strings(value: object) -> list[str]:
    values = value if isinstance(value, (list, dict)) else [value]
    return [item for item in values if isinstance(item, str)]


def _plain_name(pattern: object) -> str:
    if not isinstance(pattern, str) or not PLAIN.fullmatch(pattern):
        raise UnservedAdapterError(
            f"option 'layers_pattern' = {shorten(pattern)} has no exact served form: name the list of blocks alone"
        )
    return pattern


def _fullmatch(pattern: str, module: str, option: str) -> bool:
    if PLAIN.fullmatch(pattern):
        return re.fullmatch(pattern, module) is not None
    return _compile(pattern, option).fullmatch(module)


def _ends_with(module: str, pattern: str, option: str) -> bool:
    expression = rf"(.*\.)?({pattern})$"
    if PLAIN.fullmatch(pattern):
        return re.match(expression, module) is not None
    return _compile(expression, option).match(module)


def _compile(pattern: str, option: str) -> Pattern:
    try:
        return compile_pattern(pattern)
    except ValueError as error:
        raise UnservedAdapterError(
            f"option {option!r}: {pattern[:80]!r} is no regular expression that is served ({error}): "
            "name modules by full path"
        ) from None


def shorten(value: object) -> str:
    """Show the beginning of what JSON gave, however deep and long it is."""
    return repr(value)[:80] if isinstance(value, (str, int, float, NoneType)) else f"a {type(value).__name__}"
