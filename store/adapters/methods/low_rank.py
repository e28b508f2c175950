"""The tensors of PEFT's low-rank methods, part by part: their names and shapes."""

from __future__ import annotations

from typing import cast

from store.adapters.methods.spec import MAX_NUMBER, ModuleSpec, Shapes, Sizes, integer, is_number, number
from store.adapters.methods.targets import Config, resolve_pattern, shorten
from store.errors import AdapterMismatchError, UnservedAdapterError

Shape = tuple[int, int]
"""Of a linear map: (out, in)."""
WITHOUT_BIAS = ".downsample.reduction"
"""The merge of a Swin, the one map without a bias where the others have one."""


def lora(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """A (rank, in), B (out, rank); as the config says B's bias, DoRA's magnitudes, the map's own bias, each (out,)."""
    out, width = shape
    rank = rank_and_alpha(config, module, "lora_alpha")
    parts: dict[str, tuple[int, ...]] = {"lora_A.weight": (rank, width), "lora_B.weight": (out, rank)}
    if config.get("lora_bias"):
        if config.get("use_dora"):
            raise UnservedAdapterError(
                "option 'lora_bias' does not go with DoRA, nor does it in PEFT: tune with one of the two"
            )
        parts["lora_B.bias"] = (out,)
    if config.get("use_dora"):
        parts["lora_magnitude_vector"] = (out,)
    if config.get("bias") == "lora_only" and not module.endswith(WITHOUT_BIAS):
        parts["base_layer.bias"] = (out,)
    return ModuleSpec(rank, parts)


def rank_and_alpha(config: Config, module: str, alpha_option: str) -> int:
    """Return the rank of a module, and check its alpha: `rank_pattern` and `alpha_pattern` precede the options."""
    rank = resolve_pattern(config, "rank_pattern", module, config.get("r"))
    alpha = resolve_pattern(config, "alpha_pattern", module, config.get(alpha_option))
    if type(rank) is not int or not 1 <= rank <= MAX_NUMBER or not is_number(alpha):
        raise AdapterMismatchError(
            f"module {module!r} has r = {shorten(rank)} and {alpha_option} = {shorten(alpha)}: "
            f"expected r >= 1, a number, both up to {MAX_NUMBER}"
        )
    return rank


def adalora(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """A (rank, in), E (rank, 1) and B (out, rank); `rank_pattern` says which of `init_r` directions are kept."""
    rank = integer(config, "init_r")
    if number(config, "lora_alpha") <= 0:
        raise AdapterMismatchError("AdaLoRA needs lora_alpha above 0: PEFT loses its scaling otherwise; tune it again")
    patterns = config.get("rank_pattern") or {}
    mask = patterns.get(f"{module}.lora_E") if isinstance(patterns, dict) else 0
    if mask is not None:
        if not isinstance(mask, list) or len(mask) != rank or not all(type(bit) is bool for bit in mask):
            raise AdapterMismatchError(
                f"module {module!r} has rank_pattern {shorten(mask)}: expected {rank} values true or false; save the "
                "adapter with PEFT again"
            )
        rank = sum(mask)
    return ModuleSpec(rank, {"lora_A": (rank, shape[1]), "lora_B": (shape[0], rank), "lora_E": (rank, 1)})


def vera(config: Config, module: str, shape: Shape) -> ModuleSpec:
    rank = _require_bounded(integer(config, "r"), module, shape)
    return ModuleSpec(rank, {"vera_lambda_b": (shape[0],), "vera_lambda_d": (rank,)})


def vera_shared(config: Config, adapted: Shapes) -> Sizes:
    """A and B are as wide as the widest adapted map; a narrower one takes their first columns and rows."""
    rank, (out, width) = integer(config, "r"), _widest(adapted)
    return {"base_model.vera_A": (rank, width), "base_model.vera_B": (out, rank)}


def pvera(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """Half of A and of lambda_d is for the variance, which only sampling sees."""
    rank = _require_bounded(integer(config, "r"), module, shape)
    return ModuleSpec(rank, {"pvera_lambda_b": (shape[0],), "pvera_lambda_d": (2 * rank,)})


def pvera_shared(config: Config, adapted: Shapes) -> Sizes:
    rank, (out, width) = integer(config, "r"), _widest(adapted)
    return {"base_model.pvera_A": (2 * rank, width), "base_model.pvera_B": (out, rank)}


def delora(config: Config, module: str, shape: Shape) -> ModuleSpec:
    rank = resolve_pattern(config, "rank_pattern", module, config.get("r"))
    rank = integer({"r": rank}, "r")
    parts = {"delora_A": (rank, shape[1]), "delora_B": (shape[0], rank)}
    return ModuleSpec(rank, {**parts, "delora_lambda": (1,), "delora_w_norm": (shape[1],)})


def gralora(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """k pairs of factors of rank r, one for each part of the input, and with `hybrid_r` one pair for all of it."""
    rank, parts, hybrid = integer(config, "r"), integer(config, "gralora_k"), integer(config, "hybrid_r", low=0)
    number(config, "alpha")
    if shape[0] % parts or shape[1] % parts or rank % parts:
        raise AdapterMismatchError(
            f"module {module!r} is {shape}, r = {rank}: gralora_k = {parts} does not divide them; use the adapter with "
            "the backbone it was tuned on"
        )
    sizes: dict[str, tuple[int, ...]] = {
        "gralora_A": (parts, shape[1] // parts, rank),
        "gralora_B": (parts, rank, shape[0] // parts),
    }
    if hybrid:
        sizes["gralora_A_general.weight"], sizes["gralora_B_general.weight"] = (hybrid, shape[1]), (shape[0], hybrid)
    return ModuleSpec(require_thin(parts * rank + hybrid, module, shape), sizes)


def vblora(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """Logits over a bank of vectors, the best `topk` mixed; or the indices and weights of these alone."""
    rank, vectors, topk = (
        _require_bounded(integer(config, "r"), module, shape),
        integer(config, "num_vectors"),
        integer(config, "topk"),
    )
    length = integer(config, "vector_length")
    if shape[0] % length or shape[1] % length or topk > vectors:
        raise AdapterMismatchError(
            f"module {module!r} is {shape} and mixes {topk} of {vectors} vectors: vector_length = {length} must "
            "divide both sizes, topk be at most num_vectors; use the adapter with the backbone it was tuned on"
        )
    grids = {"vblora_logits_A": (rank, shape[1] // length), "vblora_logits_B": (shape[0] // length, rank)}
    if not config.get("save_only_topk_weights"):
        return ModuleSpec(rank, {name: (*grid, vectors) for name, grid in grids.items()})
    indices = {f"{name}_topk_indices": (*grid, topk) for name, grid in grids.items()}
    return ModuleSpec(rank, {**indices, **{f"{name}_topk_weights": (*grid, topk - 1) for name, grid in grids.items()}})


def vblora_shared(config: Config, _: Shapes) -> Sizes:
    return {"base_model.vblora_vector_bank": (integer(config, "num_vectors"), integer(config, "vector_length"))}


def unilora(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """For each element of A and B, its index in the shared vector and its scale."""
    if config.get("save_indices") is not True:
        raise UnservedAdapterError(
            "option 'save_indices' is off, so the indices are not in the file and depend on numpy's random numbers: "
            "set save_indices=True and save it again"
        )
    rank = integer(config, "r")
    sizes = {"A": (rank, shape[1]), "B": (shape[0], rank)}
    return ModuleSpec(rank, {f"unilora_{kind}_{side}": sizes[side] for kind in ("indices", "scales") for side in "AB"})


def unilora_shared(config: Config, _: Shapes) -> Sizes:
    return {"base_model.unilora_theta_d": (integer(config, "theta_d_length"),)}


def tinylora(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """A and B are W's largest singular vectors; P (u, r, r) mixes them by the vector (u,) of the module's group."""
    rank, directions = min(integer(config, "r"), *shape), integer(config, "u")
    parts = {"tinylora_A": (rank, shape[1]), "tinylora_B": (shape[0], rank), "tinylora_P": (directions, rank, rank)}
    return ModuleSpec(rank, parts)


def tinylora_shared(config: Config, adapted: Shapes) -> Sizes:
    directions, groups = integer(config, "u"), set(tinylora_groups(config, len(adapted)))
    return {f"base_model.tinylora_v.{group}": (directions,) for group in sorted(groups)}


def tinylora_groups(config: Config, modules: int) -> list[int]:
    """Return the group of each of `modules` modules, from the first block up: PEFT's `weight_tying`."""
    tying = number(config, "weight_tying")
    if not 0 <= tying <= 1:
        raise AdapterMismatchError(f"option 'weight_tying' = {tying}: expected 0 to 1; save the config with PEFT again")
    groups = max(1, round(modules * (1.0 - tying)))
    return [min(index // max(1, modules // groups), groups - 1) for index in range(modules)]


def require_thin(rank: int, module: str, shape: Shape) -> int:
    """Return the rank of factors that are smaller than the map, or raise `UnservedAdapterError`."""
    if rank * sum(shape) >= shape[0] * shape[1]:
        raise UnservedAdapterError(
            f"module {module!r} would need factors of rank {rank}, more than its {shape[0]} x {shape[1]} weights: "
            "tune with a lower r"
        )
    return rank


def _require_bounded(rank: int, module: str, shape: Shape) -> int:
    """Return the rank of factors that all modules share, or raise: a small file must not become large forms."""
    if rank > sum(shape):
        raise UnservedAdapterError(
            f"module {module!r} has rank {rank}, above {sum(shape)}, the sum of its sizes: tune with a lower r"
        )
    return rank


def _widest(adapted: Shapes) -> Shape:
    outs, widths = zip(*adapted.values(), strict=True)
    return cast(int, max(outs)), cast(int, max(widths))
