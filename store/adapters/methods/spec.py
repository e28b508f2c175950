"""What it takes to serve a method: the options that its config may have, and the tensors that it must have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from store.adapters.methods.targets import Config, matches, shorten
from store.adapters.safetensors_header import TensorInfo
from store.errors import AdapterMismatchError
from store.records.geometry import LAST_NORM

Infos = Mapping[str, TensorInfo]
Shapes = Mapping[str, tuple[int, int]]
Sizes = Mapping[str, tuple[int, ...]]

PREFIX = "base_model.model."
LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
NORMS = ("norm1", "norm2")
FLOATS = ("F32", "F16", "BF16")
INTEGERS = ("U8", "I16", "I32", "I64")
OFF: tuple[object, ...] = (None, False, 0, "", [], {})
MAX_NUMBER = 1_000_000  # no real config has a rank or an alpha above it


def block_widths(shapes: Shapes) -> dict[str, int]:
    """Return the width of every block by its path, such as `blocks.0`."""
    suffix = f".{LINEAR[0]}"
    return {path.removesuffix(suffix): width for path, (_, width) in shapes.items() if path.endswith(suffix)}


def merge_widths(shapes: Shapes) -> dict[str, int]:
    """Return how wide the norm of each merge of patches is, by the merge's path; of a Swin alone."""
    suffix = ".reduction"
    return {path.removesuffix(suffix): width for path, (_, width) in shapes.items() if path.endswith(suffix)}


def _linear_maps(shapes: Shapes) -> Shapes:
    return shapes


@dataclass(frozen=True)
class Method:
    """A supported method: options of any value, options of some values, all others off; and the check of its tensors.

    `ranks` returns every adapted module with the rank of its form, 0 where it has no low-rank part. `modules` returns
    those that must have tensors where the config names them, by default the backbone's linear maps. `remedies` has by
    option what to do about a refused value. `variant` names a config where the method's name is not enough.
    """

    name: str
    free: frozenset[str]
    limited: Mapping[str, tuple[object, ...]]
    ranks: Callable[[Config, Infos, Shapes], dict[str, int]]
    modules: Callable[[Shapes], Iterable[str]] = _linear_maps
    remedies: Mapping[str, str] = field(default_factory=dict)
    variant: Callable[[Config], str] | None = None

    def name_for(self, config: Config) -> str:
        return self.name if self.variant is None else self.variant(config)


@dataclass(frozen=True)
class ModuleSpec:
    """The tensors that an adapted module must have: the rank of its form, and each part's shape."""

    rank: int
    parts: Sizes


def _no_shared(_: Config, __: Shapes) -> Sizes:
    return {}


@dataclass(frozen=True)
class TensorSpec:
    """A method's `ranks`, from the spec of a module and the tensors that all modules share.

    `parts` matches a part's name within its module, `integers` are the parts of whole numbers. `modules` returns what
    may be adapted, each with (out, in); messages call such a module `module_kind`.
    """

    kind: str
    parts: str
    module_spec: Callable[[Config, str, tuple[int, int]], ModuleSpec]
    shared: Callable[[Config, Shapes], Sizes] = _no_shared
    integers: frozenset[str] = frozenset()
    modules: Callable[[Shapes], Shapes] = _linear_maps
    module_kind: str = "linear map in a block"

    def __call__(self, config: Config, infos: Infos, shapes: Shapes) -> dict[str, int]:
        expression = re.compile(re.escape(PREFIX) + rf"(?P<module>.+)\.(?P<part>{self.parts})")
        modules: dict[str, dict[str, TensorInfo]] = {}
        others: dict[str, TensorInfo] = {}
        for tensor, info in infos.items():
            match = expression.fullmatch(tensor)
            self._check_dtype(tensor, info, is_integer=match is not None and match["part"] in self.integers)
            if match is None:
                others[tensor] = info
            else:
                modules.setdefault(match["module"], {})[match["part"]] = info
        known = self.modules(shapes)
        ranks = {module: self._rank(config, module, parts, known) for module, parts in modules.items()}
        self._check_shared(config, others, {module: known[module] for module in modules})
        return ranks

    def _check_dtype(self, tensor: str, info: TensorInfo, *, is_integer: bool) -> None:
        dtypes = INTEGERS if is_integer else FLOATS
        if info.dtype not in dtypes:
            raise AdapterMismatchError(
                f"tensor {tensor[:120]!r} ({info.dtype}) is not a factor of {self.kind} in {', '.join(dtypes)}: "
                "save the adapter with PEFT again, without modules_to_save"
            )

    def _rank(self, config: Config, module: str, parts: Infos, known: Shapes) -> int:
        if module not in known:
            raise AdapterMismatchError(
                f"module {module[:120]!r} is not a {self.module_kind} of this backbone: "
                "name target_modules by full path, such as 'blocks.0.attn.qkv'"
            )
        if not matches(config, module):
            raise AdapterMismatchError(
                f"module {module!r} has tensors and is not in the config's target_modules: save both with PEFT again"
            )
        spec = self.module_spec(config, module, known[module])
        shapes = {part: parts[part].shape for part in sorted(parts)}
        if shapes != spec.parts:
            raise AdapterMismatchError(
                f"module {module!r} has factors of shapes {shapes}, this backbone and the config need "
                f"{dict(spec.parts)}: use the adapter with the backbone it was tuned on"
            )
        return spec.rank

    def _check_shared(self, config: Config, others: Infos, adapted: Shapes) -> None:
        expected = self.shared(config, adapted) if adapted else {}
        for tensor in others:
            if tensor not in expected:
                raise AdapterMismatchError(
                    f"tensor {tensor[:120]!r} is not a factor of {self.kind} for a {self.module_kind}: "
                    "save the adapter with PEFT again, without modules_to_save"
                )
        shapes = {tensor: info.shape for tensor, info in others.items()}
        if shapes != expected:
            raise AdapterMismatchError(
                f"the tensors that all modules share have shapes {shapes}, the config and the modules need "
                f"{dict(expected)}: "
                "save the adapter with PEFT again, with all that it needs in the file"
            )


def integer(config: Config, option: str, *, low: int = 1) -> int:
    """Return the option's whole number, or raise `AdapterMismatchError` unless it is in `low`..`MAX_NUMBER`."""
    value = config.get(option)
    if type(value) is not int or not low <= value <= MAX_NUMBER:
        raise AdapterMismatchError(
            f"option {option!r} = {shorten(value)}: expected {option} >= {low}, up to {MAX_NUMBER}; "
            "save the config with PEFT again"
        )
    return value


def number(config: Config, option: str) -> float:
    """Return the option's number, or raise `AdapterMismatchError`."""
    value = config.get(option)
    if not is_number(value):
        raise AdapterMismatchError(
            f"option {option!r} = {shorten(value)}: expected a number, up to {MAX_NUMBER}; "
            "save the config with PEFT again"
        )
    return cast(float, value)


def is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(cast(float, value)) <= MAX_NUMBER


BLOCK = re.compile(r"blocks\.(\d+)\.")


def block_number(module: str) -> int:
    """Return the block of a module's full path, counted from 1; 0 for the last norm, which runs at every depth."""
    if module == LAST_NORM:
        return 0
    match = BLOCK.match(module)
    if match is None:
        raise AdapterMismatchError(f"module {module[:120]!r} is not in a block: adapt modules in the blocks only")
    return int(match.group(1)) + 1
