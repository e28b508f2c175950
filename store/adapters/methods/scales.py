"""The tensors of the methods that scale and shift what a map takes or gives, or what a norm does."""

from __future__ import annotations

from store.adapters.methods.low_rank import Shape
from store.adapters.methods.spec import NORMS, ModuleSpec, Shapes, block_widths, integer, merge_widths
from store.adapters.methods.targets import Config, is_feedforward, shorten
from store.errors import UnservedAdapterError
from store.records.geometry import LAST_NORM, Geometry


def ia3(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """One vector, for the inputs of a feedforward module, for the outputs of any other."""
    return ModuleSpec(0, {"ia3_l": (1, shape[1]) if is_feedforward(config, module) else (shape[0], 1)})


def beft(_: Config, __: str, shape: Shape) -> ModuleSpec:
    return ModuleSpec(0, {"beft_bias": (1, shape[0])})


def ln(_: Config, __: str, shape: Shape) -> ModuleSpec:
    return ModuleSpec(0, {"ln_tuning_layers.weight": (shape[0],), "ln_tuning_layers.bias": (shape[0],)})


def block_norms(shapes: Shapes) -> Shapes:
    """Return the norms of every block and of the merges before stages, each with its width twice."""
    merges = {f"{merge}.norm": (width, width) for merge, width in merge_widths(shapes).items()}
    in_blocks = ((block, norm, width) for block, width in block_widths(shapes).items() for norm in NORMS)
    return {**{f"{block}.{norm}": (width, width) for block, norm, width in in_blocks}, **merges}


def norms(shapes: Shapes) -> Shapes:
    """Return the norms of every block, those of the merges, and the last one."""
    in_blocks, last = block_norms(shapes), Geometry.of(shapes).stage_dims[-1]
    return {**in_blocks, LAST_NORM: (last, last)} if in_blocks else {}


def glora(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """A and B for the weights as vectors (out, 1) or numbers, C (in, 1), D and E (out,) for the bias.

    A and B of low rank would multiply W element by element, which is of full rank.
    """
    paths, third, bias = (config.get(option) for option in ("config_A_B", "config_C", "config_D_E"))
    if paths not in ("vector", "constant") or third not in ("lora", "vector", "none"):
        raise UnservedAdapterError(
            f"GLoRA with config_A_B = {shorten(paths)} and config_C = {shorten(third)} has no exact form: "
            "tune with config_A_B 'vector' or 'constant', and config_C 'lora', 'vector' or 'none'"
        )
    if bias not in ("vector", "constant", "none"):
        raise UnservedAdapterError(
            f"GLoRA with config_D_E = {shorten(bias)} is not served: tune with 'vector', 'constant' or 'none'"
        )
    out, width = shape
    weights = (out, 1) if paths == "vector" else (1,)
    parts: dict[str, tuple[int, ...]] = {"glora_A.X": weights, "glora_B.X": weights}
    if third == "lora":
        rank = integer(config, "r")
        parts |= {"glora_C.Xd": (width, rank), "glora_C.Xu": (rank, 1)}
    else:
        parts["glora_C.X" if third == "vector" else "glora_C.zeros"] = (width, 1)
    name, size = ("zeros" if bias == "none" else "X"), ((1,) if bias == "constant" else (out,))
    return ModuleSpec(1, {**parts, f"glora_D.{name}": size, f"glora_E.{name}": size})
