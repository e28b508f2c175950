"""The tensors of the methods that turn what a map takes or gives, a few numbers at a time."""

from __future__ import annotations

from store.adapters.methods.low_rank import Shape
from store.adapters.methods.spec import ModuleSpec, integer
from store.adapters.methods.targets import Config, shorten
from store.errors import AdapterMismatchError, UnservedAdapterError

ROAD_SIZES = {"road_1": 0.5, "road_2": 1.0, "road_4": 2.0}
"""Angles of an output by variant."""


def oft(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """One skew-symmetric matrix for each part of the input, or with `block_share` one for all, above its diagonal."""
    size = _part_size(config, "r", "oft_block_size", module, shape)
    if config.get("use_cayley_neumann", True):
        terms = integer(config, "num_cayley_neumann_terms")
        if terms > 100:
            raise UnservedAdapterError(
                f"option 'num_cayley_neumann_terms' = {terms}: up to 100 are served; tune with 5"
            )
    parts = 1 if config.get("block_share") else shape[1] // size
    return ModuleSpec(0, {"oft_R.weight": (parts, size * (size - 1) // 2)})


def boft(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """One matrix for each part of the input, whose skew-symmetric part counts, and a scale for each output."""
    if config.get("boft_n_butterfly_factor") != 1:
        raise UnservedAdapterError(
            f"option 'boft_n_butterfly_factor' = {shorten(config.get('boft_n_butterfly_factor'))} is not served, "
            "as PEFT computes it with an extension for CUDA alone: tune with 1"
        )
    size = _part_size(config, "boft_block_num", "boft_block_size", module, shape)
    return ModuleSpec(0, {"boft_R": (1, shape[1] // size, size, size), "boft_s": (shape[0], 1)})


def road(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """Angles and lengths for pairs of outputs, which lie half a group apart."""
    variant, group = config.get("variant"), integer(config, "group_size", low=2)
    if variant not in ROAD_SIZES:
        raise UnservedAdapterError(f"option 'variant' = {shorten(variant)}: tune with {', '.join(ROAD_SIZES)}")
    if group % 2 or shape[0] % group:
        raise AdapterMismatchError(
            f"module {module!r} has {shape[0]} outputs, which groups of {group} do not divide: use the adapter with "
            "the backbone it was tuned on"
        )
    size = int(shape[0] * ROAD_SIZES[str(variant)])
    return ModuleSpec(0, {"road_theta": (size,), "road_alpha": (size,)})


def _part_size(config: Config, count_option: str, size_option: str, module: str, shape: Shape) -> int:
    """Return how many inputs each part has: the config says this or the number of parts, and 0 for the other."""
    count, size = integer(config, count_option, low=0), integer(config, size_option, low=0)
    if bool(count) == bool(size) or shape[1] % (count or size):
        raise AdapterMismatchError(
            f"module {module!r} has {shape[1]} inputs, {count_option} = {count} and {size_option} = {size}: one of the "
            "two must divide them and the other be 0; tune with such a size"
        )
    size = size or shape[1] // count
    if size >= shape[0]:
        raise UnservedAdapterError(
            f"module {module!r} would turn parts of {size} inputs, which costs as much as its {shape[0]} x {shape[1]} "
            "weights: tune with smaller parts"
        )
    return size
