"""The tensors of the methods whose change of a map is a product: of matrices, element by element, or with W itself."""

from __future__ import annotations

from store.adapters.methods.low_rank import Shape, rank_and_alpha, require_thin
from store.adapters.methods.spec import ModuleSpec, integer, number
from store.adapters.methods.targets import Config, shorten
from store.errors import AdapterMismatchError, UnservedAdapterError

DECOMPOSITIONS = ("relu", "qr")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid")


def loha(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """(w1_a w1_b) * (w2_a w2_b), element by element: of rank r^2 at most."""
    rank, (out, width) = rank_and_alpha(config, module, "alpha"), shape
    first, second = (out, rank), (rank, width)
    parts = {"hada_w1_a": first, "hada_w1_b": second, "hada_w2_a": first, "hada_w2_b": second}
    return ModuleSpec(require_thin(rank * rank, module, shape), parts)


def lokr(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """The Kronecker product of w1 and w2, each whole or of rank r."""
    rank = rank_and_alpha(config, module, "alpha")
    factor = config.get("decompose_factor")
    if type(factor) is not int:
        raise AdapterMismatchError(
            f"option 'decompose_factor' = {shorten(factor)}: expected -1 or a size; save the config with PEFT again"
        )
    outs, widths = split(shape[0], factor), split(shape[1], factor)
    parts: dict[str, tuple[int, ...]] = {}
    ranks = []
    for index, (name, low) in enumerate((("lokr_w1", bool(config.get("decompose_both"))), ("lokr_w2", True))):
        out, width = outs[index], widths[index]
        low = low and rank < max(out, width) / 2
        parts |= {f"{name}_a": (out, rank), f"{name}_b": (rank, width)} if low else {name: (out, width)}
        ranks.append(min(out, width, rank) if low else min(out, width))
    return ModuleSpec(require_thin(ranks[0] * ranks[1], module, shape), parts)


def split(size: int, factor: int) -> tuple[int, int]:
    """Return the two factors, the smaller first, by which LoKr parts a size.

    They are `factor` and the rest where it divides; else the most even ones of which the smaller is up to `factor`,
    any where it is -1.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    low = 1
    for divisor in range(1, (size if factor == -1 else min(factor, size)) + 1):
        if size % divisor == 0:
            low = divisor
            if low * low >= size:
                break
    return min(low, size // low), max(low, size // low)


def hra(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """r vectors, each of which mirrors the input."""
    rank = integer(config, "r")
    return ModuleSpec(rank, {"hra_u": (shape[1], rank)})


def miss(config: Config, module: str, shape: Shape) -> ModuleSpec:
    """One block (r, out) for every r inputs; with `mini`, mini_r columns of it, again and again."""
    rank = integer(config, "r")
    if rank > shape[1]:
        raise AdapterMismatchError(f"module {module!r} has {shape[1]} inputs, r = {rank}: MiSS needs r up to that")
    if config.get("init_weights") != "mini":
        return ModuleSpec(rank, {"miss_block": (rank, shape[0])})
    columns = integer(config, "mini_r")
    if shape[0] % columns:
        raise AdapterMismatchError(f"module {module!r} has {shape[0]} outputs, mini_r = {columns} must divide them")
    return ModuleSpec(rank, {"miss_block": (rank, columns)})


def deft(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """P (out, r) takes W's part along it away, R (r, in) puts another in its place unless `para` is set."""
    method = config.get("decomposition_method", DECOMPOSITIONS[0])
    if method not in DECOMPOSITIONS:
        raise UnservedAdapterError(
            f"option 'decomposition_method' = {shorten(method)} has no exact served form: "
            f"tune with {' or '.join(DECOMPOSITIONS)}"
        )
    rank = min(integer(config, "r"), shape[0])
    if config.get("alpha") is not None:
        number(config, "alpha")
    return ModuleSpec(rank, {"deft_P": (shape[0], rank)} | ({} if config.get("para") else {"deft_R": (rank, shape[1])}))


def peanut(config: Config, _: str, shape: Shape) -> ModuleSpec:
    """A small network on W: A (r, out), `depth` pairs of (r, r), B (out, r)."""
    activation = config.get("act_fn", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise UnservedAdapterError(
            f"option 'act_fn' = {shorten(activation)} has no exact served form: tune with {', '.join(ACTIVATIONS)}"
        )
    number(config, "scaling")
    rank, depth = integer(config, "r"), integer(config, "depth", low=0)
    if depth > 100:
        raise UnservedAdapterError(f"option 'depth' = {depth}: up to 100 are served; tune a shallower network")
    inner = {f"peanut_{side}coders.{index}.weight": (rank, rank) for side in ("en", "de") for index in range(depth)}
    return ModuleSpec(rank, {"peanut_A.weight": (rank, shape[0]), "peanut_B.weight": (shape[0], rank), **inner})
