"""The methods that PEFT lacks, and what their config and tensors must say to be served exactly.

`adapter_config.json` has `peft_type`, `target_modules` (places in the blocks by full path, each once),
`inference_mode`, and what the kind has beside them; `adapter_model.safetensors` has the tensors of each place under
`PLACE.NAME`, such as `blocks.3.mlp.down.weight`. dim is the backbone's width, out that of what the place gives.

CONVPASS (Jie and Deng 2022, arXiv 2207.07039): y = scale * up(act(conv(act(down(v))))), act being QuickGELU, at
    `blocks.N.attn` and `blocks.N.mlp`; `r` is the hidden width.
    down.weight (r, dim), down.bias (r), conv.weight (r, r, 3, 3), conv.bias (r), up.weight (dim, r), up.bias (dim),
    scale ().
BOTTLENECK: y = scale * up(act(down(v))), where `preset` says which; `r` is the hidden width.
    down.weight (r, dim), down.bias (r), up.weight (dim, r), up.bias (dim), and scale as below.
    "adaptformer" (Chen et al. 2022, arXiv 2205.13535, as its code is): at `blocks.N.mlp`, ReLU, scale ().
    "houlsby" (Houlsby et al. 2019, arXiv 1902.00751, figure 2): at `blocks.N.attn` and `blocks.N.mlp`, GELU, no scale.
    "adapter+" (Steitz and Roth 2024, arXiv 2406.06820): at `blocks.N.mlp`, GELU, scale (dim).
SSF (Lian et al. 2022, arXiv 2210.08823): y = scale * f(x) + shift, at linear maps and norms of the blocks: not at the
    patch embedding, which all tasks share, nor at the last norm, where the head says the same. scale, shift (out).
BITFIT (Ben Zaken et al. 2022, arXiv 2106.10199): y = f(x) + bias, at the same places; bias (out) is the difference to
    the backbone's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal, cast

from store.adapters.methods.spec import FLOATS, LINEAR, MAX_NUMBER, NORMS, Method, Shapes, block_widths
from store.adapters.methods.targets import Config, shorten
from store.adapters.safetensors_header import TensorInfo
from store.errors import AdapterMismatchError, UnservedAdapterError

CONVPASS, BOTTLENECK, SSF, BITFIT = "CONVPASS", "BOTTLENECK", "SSF", "BITFIT"
PARALLEL_SITES = ("attn", "mlp")
REMEDY = "write the folder again with what made it"

Tensors = Mapping[str, tuple[int, ...]]
"""The shapes of a place's tensors by their names."""


@dataclass(frozen=True)
class Preset:
    """A bottleneck as its paper defines it: where in a block, on what, through what, and scaled by what."""

    sites: tuple[str, ...]
    input: Literal["residual", "output", "sum"]
    activation: Literal["relu", "gelu"]
    scale: Literal["scalar", "channels"] | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "adaptformer": Preset(("mlp",), "residual", "relu", "scalar"),
        "houlsby": Preset(PARALLEL_SITES, "output", "gelu"),
        "adapter+": Preset(("mlp",), "sum", "gelu", "channels"),
    }
)


@dataclass(frozen=True)
class _Kind:
    """Where a kind may stand in a block, and the tensors that it has there, by the width of what the place gives."""

    name: str
    sites: Callable[[Config], tuple[str, ...]]
    tensors: Callable[[Config, int], Tensors]

    def ranks(self, config: Config, infos: Mapping[str, TensorInfo], shapes: Shapes) -> dict[str, int]:
        """Return the places with the hidden width, 0 where there is none, or raise `AdapterMismatchError`."""
        widths = _widths(self.sites(config), shapes)
        modules = self._targets(config, widths)
        expected = {f"{m}.{name}": shape for m in modules for name, shape in self.tensors(config, widths[m]).items()}
        self._check_names(infos, expected)
        for name, shape in expected.items():
            self._check_tensor(name, infos[name], shape)
        return dict.fromkeys(modules, cast(int, config.get("r", 0)))

    def _targets(self, config: Config, widths: Mapping[str, int]) -> list[str]:
        targets = config.get("target_modules")
        if type(targets) is not list or not all(type(target) is str for target in targets):
            raise AdapterMismatchError(
                f"target_modules of {self.name} is a {type(targets).__name__}, not a list of full paths: {REMEDY}"
            )
        seen: set[str] = set()
        for target in targets:
            if target in seen or target not in widths:
                problem = "twice in" if target in seen else f"no place for {self.name} on this backbone, yet in"
                raise AdapterMismatchError(
                    f"{target[:120]!r} is {problem} target_modules: name {_example(widths)} and the like, each once"
                )
            seen.add(target)
        return targets

    def _check_names(self, infos: Iterable[str], expected: Iterable[str]) -> None:
        for names, problem in (
            (set(infos) - set(expected), f"in the file and no part of {self.name} at a place in target_modules"),
            (set(expected) - set(infos), f"needed by {self.name} at the places in target_modules and not in the file"),
        ):
            if names:
                raise AdapterMismatchError(f"tensor {min(names)[:120]!r} is {problem}, of {len(names)}: {REMEDY}")

    def _check_tensor(self, name: str, info: TensorInfo, shape: tuple[int, ...]) -> None:
        if info.dtype not in FLOATS:
            raise AdapterMismatchError(f"tensor {name!r} is {info.dtype}: save it as one of {', '.join(FLOATS)}")
        if info.shape != shape:
            raise AdapterMismatchError(
                f"tensor {name!r} has shape {info.shape}, this backbone and the config need {shape}: "
                "use the adapter with the backbone it was tuned on"
            )


def _widths(sites: Iterable[str], shapes: Shapes) -> dict[str, int]:
    """Give each place of the backbone's blocks, by full path, the width of what it gives."""
    paths = ((f"{block}.{site}", dim) for block, dim in block_widths(shapes).items() for site in sites)
    return {path: shapes[path][0] if path in shapes else dim for path, dim in paths}


def _example(widths: Iterable[str]) -> str:
    return repr(next(iter(widths), "blocks.0.mlp"))


def _hidden(config: Config) -> int:
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= MAX_NUMBER:
        raise AdapterMismatchError(
            f"r = {shorten(rank)} is no hidden width: expected a whole number from 1 to {MAX_NUMBER}; {REMEDY}"
        )
    return rank


def _preset(config: Config) -> Preset:
    name = config.get("preset")
    if type(name) is not str or name not in PRESETS:
        raise UnservedAdapterError(
            f"preset {shorten(name)} of {BOTTLENECK} has no exact served form: choose one of {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def _maps(config: Config, dim: int) -> dict[str, tuple[int, ...]]:
    hidden = _hidden(config)
    return {"down.weight": (hidden, dim), "down.bias": (hidden,), "up.weight": (dim, hidden), "up.bias": (dim,)}


def _convpass_tensors(config: Config, dim: int) -> Tensors:
    hidden = _hidden(config)
    conv = {"conv.weight": (hidden, hidden, 3, 3), "conv.bias": (hidden,)}
    return {**_maps(config, dim), **conv, "scale": ()}


def _bottleneck_tensors(config: Config, dim: int) -> Tensors:
    shapes: dict[str | None, Tensors] = {None: {}, "scalar": {"scale": ()}, "channels": {"scale": (dim,)}}
    return {**_maps(config, dim), **shapes[_preset(config).scale]}


def _vectors(names: tuple[str, ...], _: Config, width: int) -> Tensors:
    return dict.fromkeys(names, (width,))


def _method(kind: _Kind, *options: str, variant: Callable[[Config], str] | None = None) -> Method:
    free = frozenset({"peft_type", "inference_mode", "target_modules", *options})
    return Method(name=kind.name.lower(), free=free, limited={}, ranks=kind.ranks, variant=variant)


_LINEAR_AND_NORMS = LINEAR + NORMS
CUSTOM: Mapping[str, Method] = MappingProxyType(
    {
        CONVPASS: _method(_Kind(CONVPASS, lambda _: PARALLEL_SITES, _convpass_tensors), "r"),
        BOTTLENECK: _method(
            _Kind(BOTTLENECK, lambda c: _preset(c).sites, _bottleneck_tensors),
            *("r", "preset"),
            variant=lambda config: str(config["preset"]),
        ),
        SSF: _method(_Kind(SSF, lambda _: _LINEAR_AND_NORMS, partial(_vectors, ("scale", "shift")))),
        BITFIT: _method(_Kind(BITFIT, lambda _: _LINEAR_AND_NORMS, partial(_vectors, ("bias",)))),
    }
)
"""By `peft_type`."""
