"""The PEFT methods that are served, and what their config and tensors must say to be served exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import cast

from store.errors import AdapterMismatchError, UnservedAdapterError
from store.patterns import Pattern, compile_pattern
from store.tensors import TensorInfo

Config = Mapping[str, object]
Shapes = Mapping[str, tuple[int, int]]

PREFIX = "base_model.model."
FLOATS = ("F32", "F16", "BF16")
OFF: tuple[object, ...] = (None, False, 0, "", [], {})
MAX_NAMES = 1 << 16  # characters in all module names and patterns of a config
MAX_PATTERNS = 1000  # of them in patterns that are more than a name, which take some 2 ms each at worst
MAX_NUMBER = 1_000_000  # a rank or an alpha above it is no choice that anyone makes
NAMING = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
PLAIN = re.compile(r"(?:[\w.-]|\\[.d-])*")
SPLIT_HEAD = (
    "move its tensors base_model.model.head.weight and .bias from adapter_model.safetensors to head.safetensors, "
    "as weight and bias, and set modules_to_save to null in adapter_config.json"
)
LORA_TENSOR = re.compile(re.escape(PREFIX) + r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|B\.bias)")


@dataclass(frozen=True)
class Method:
    """A served method: options of any value, options of some values, all others off; and the guard of its tensors."""

    name: str
    free: frozenset[str]
    limited: Mapping[str, tuple[object, ...]]
    ranks: Callable[[Config, Mapping[str, TensorInfo], Shapes], dict[str, int]]


def served_method(config: Config) -> Method:
    """Return the method of the config, or raise `UnservedAdapterError` where no form of it would be exact."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in SERVED:
        raise UnservedAdapterError(
            f"peft_type {_show(kind)} has no exact served form; served are {', '.join(SERVED)}: tune with one"
        )
    method = SERVED[kind]
    for option, value in config.items():
        if option not in method.free and value not in method.limited.get(option, OFF):
            remedy = SPLIT_HEAD if option == "modules_to_save" and value == ["head"] else f"tune {kind} without it"
            raise UnservedAdapterError(f"option {option[:80]!r} = {_show(value)} has no exact served form: {remedy}")
    _check_patterns(config)
    return method


def matches(config: Config, module: str) -> bool:
    """Say whether PEFT adapts the module of this full path."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _names(excluded, module):
        return False
    if not _names(targets, module):
        return False
    layers = config.get("layers_to_transform")
    by_suffix = isinstance(targets, list) and module not in targets
    return not by_suffix or layers is None or layers == [] or _layer(config, module) in _list(layers)


def resolve_pattern(config: Config, option: str, module: str, default: object) -> object:
    """Return what `rank_pattern` or `alpha_pattern` says: the value of the first pattern that the path ends with."""
    patterns = config.get(option) or {}
    if not isinstance(patterns, dict):
        raise UnservedAdapterError(f"option {option!r} must map patterns to numbers: save the adapter with PEFT again")
    for pattern, value in patterns.items():
        if _ends_with(module, pattern, option):
            return value
    return default


def _lora_ranks(config: Config, infos: Mapping[str, TensorInfo], shapes: Shapes) -> dict[str, int]:
    """Return the rank of every adapted module: A is (rank, in), B is (out, rank), the rank is what the config says.

    With `lora_bias`, B has a bias (out,).
    """
    parts: dict[str, dict[str, TensorInfo]] = {}
    for tensor, info in infos.items():
        match = LORA_TENSOR.fullmatch(tensor)
        if match is None or info.dtype not in FLOATS:
            raise AdapterMismatchError(
                f"tensor {tensor[:120]!r} ({info.dtype}) is no LoRA factor of a linear map in {', '.join(FLOATS)}: "
                "save the adapter with PEFT again, without modules_to_save"
            )
        parts.setdefault(match["module"], {})[match["part"]] = info
    return {module: _lora_rank(config, module, found, shapes) for module, found in parts.items()}


def _lora_rank(config: Config, module: str, parts: Mapping[str, TensorInfo], shapes: Shapes) -> int:
    if module not in shapes:
        raise AdapterMismatchError(
            f"module {module[:120]!r} is no linear map in a block of this backbone: name target_modules by full path, "
            "such as 'blocks.0.attn.qkv'"
        )
    if not matches(config, module):
        raise AdapterMismatchError(
            f"module {module!r} has tensors and is not in the config's target_modules: save both with PEFT again"
        )
    rank = resolve_pattern(config, "rank_pattern", module, config.get("r"))
    alpha = resolve_pattern(config, "alpha_pattern", module, config.get("lora_alpha"))
    if type(rank) is not int or not 1 <= rank <= MAX_NUMBER or not _is_alpha(alpha):
        raise AdapterMismatchError(
            f"module {module!r} has r = {_show(rank)} and lora_alpha = {_show(alpha)}: expected r >= 1, a number, "
            f"both up to {MAX_NUMBER}"
        )
    out_features, in_features = shapes[module]
    wanted: dict[str, tuple[int, ...]] = {"A.weight": (rank, in_features), "B.weight": (out_features, rank)}
    if config.get("lora_bias"):
        wanted["B.bias"] = (out_features,)
    found = {part: parts[part].shape for part in parts}
    if found != wanted:
        raise AdapterMismatchError(
            f"module {module!r} has factors of shapes {found}, this backbone and the config need {wanted}: "
            "use the adapter with the backbone it was tuned on"
        )
    return rank


def _is_alpha(value: object) -> bool:
    return type(value) in (int, float) and abs(cast(float, value)) <= MAX_NUMBER


def _names(targets: object, module: str) -> bool:
    if isinstance(targets, str):
        return _fullmatch(targets, module, "target_modules")
    tails = {module, *(module[match.end() :] for match in re.finditer(r"\.", module))}
    return any(isinstance(target, str) and target in tails for target in _list(targets))


def _layer(config: Config, module: str) -> int | None:
    """Return the first number in the path that PEFT takes for the layer's."""
    patterns = _list(config.get("layers_pattern") or [])
    expressions = [rf"(?:^|.*?\.){_plain(pattern)}\.(\d+)\." for pattern in patterns] or [r".*?\.[^.]*\.(\d+)\."]
    found = (re.match(expression, module) for expression in expressions)
    return next((int(match.group(1)) for match in found if match), None)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _check_patterns(config: Config) -> None:
    """Refuse what would take long to match: the work is bounded by the sizes allowed here."""
    names = [name for option in NAMING for name in _strings(config.get(option))]
    patterns = [*_strings(config.get("rank_pattern")), *_strings(config.get("alpha_pattern"))]
    patterns += [value for value in (config.get("target_modules"), config.get("exclude_modules")) if type(value) is str]
    for what, sizes, limit in (
        ("module names", map(len, names), MAX_NAMES),
        ("regular expressions", (len(p) for p in patterns if not PLAIN.fullmatch(p)), MAX_PATTERNS),
    ):
        size = sum(sizes)
        if size > limit:
            raise UnservedAdapterError(
                f"the config has {size} characters of {what}, at most {limit} are served: name modules by full path"
            )


def _strings(value: object) -> list[str]:
    values = value if isinstance(value, (list, dict)) else [value]
    return [each for each in values if isinstance(each, str)]


def _plain(pattern: object) -> str:
    if not isinstance(pattern, str) or not PLAIN.fullmatch(pattern):
        raise UnservedAdapterError(
            f"option 'layers_pattern' = {_show(pattern)} has no exact served form: name the list of blocks alone"
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


def _show(value: object) -> str:
    """Show the beginning of what JSON gave, however deep and long it is."""
    return repr(value)[:80] if isinstance(value, (str, int, float, NoneType)) else f"a {type(value).__name__}"


SERVED: Mapping[str, Method] = {
    "LORA": Method(
        name="lora",
        free=frozenset(
            {
                # what the adapter is and where it came from
                *("peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "task_type"),
                # what only training sees
                *("inference_mode", "lora_dropout"),
                # what the tensors must agree with
                *("r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
                # what lowering computes
                *("lora_alpha", "alpha_pattern", "use_rslora"),
                # what has no effect while the option that it belongs to is off
                *("megatron_core", "qalora_group_size"),
            }
        ),
        limited={
            "bias": ("none",),
            "lora_bias": (True, False),
            # The others change the base weights as well, which are not here to be changed.
            "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),
        },
        ranks=_lora_ranks,
    ),
}
