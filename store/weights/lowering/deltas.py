"""What the lowerings share: an adapter's tensors by module, and the deltas that they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from store.adapters.methods.spec import LINEAR, PREFIX
from store.adapters.methods.targets import Config
from store.adapters.module_names import SEPARATE
from store.errors import AdapterMismatchError
from store.records.geometry import STAGED
from store.weights.forms import Delta, Forms

Tensors = Mapping[str, Tensor]
Lowering = Callable[[Config, Tensors, Tensors], Forms]
"""(config, the adapter's tensors, the backbone's tensors by timm's names) -> forms in float32."""

STAGED_BLOCK = re.compile(r"layers\.\d+\.blocks\.")
ORDER = {kind: position for position, kind in enumerate((*SEPARATE, *LINEAR))}


def by_module(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Return the parts of each linear map in a block: floating-point ones in float32, whole numbers as they are."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(PREFIX):
            module, part = _split(key.removeprefix(PREFIX))
            parts = modules.setdefault(module, {})
            parts[part] = tensor.float() if tensor.is_floating_point() else tensor
    return modules


def in_order(modules: Iterable[str]) -> list[str]:
    """Sort linear maps as timm names them, from the first block up; the merge before a stage precedes its blocks."""

    def position(module: str) -> tuple[int, int, int]:
        if (match := STAGED.fullmatch(module)) is not None:
            return (
                int(match["stage"]),
                -1 if match["block"] is None else int(match["block"]),
                ORDER.get(match["tail"], 0),
            )
        _, block, kind = module.split(".", 2)
        return 0, int(block), ORDER[kind]

    return sorted(modules, key=position)


def _split(key: str) -> tuple[str, str]:
    """Return a linear map and its part, of `blocks.3.attn.qkv.lora_A.weight` and of names in stages."""
    words = key.split(".", 6 if STAGED_BLOCK.match(key) else 4)
    return ".".join(words[:-1]), words[-1]


def low_rank(down: Tensor, up: Tensor, bias: Tensor | None = None, out_scale: Tensor | None = None) -> Delta:
    """y = out_scale * (W x + bias_W) + up (down x) + bias; down (rank, in), up (out, rank), vectors (out,)."""
    return Delta(down[None], up[None], _row(bias), out_scale=_row(out_scale))


def scaled(*, in_scale: Tensor | None = None, out_scale: Tensor | None = None, bias: Tensor | None = None) -> Delta:
    """y = out_scale * (W (in_scale * x) + bias_W) + bias, all (out,) but in_scale (in,)."""
    return Delta(bias=_row(bias), in_scale=_row(in_scale), out_scale=_row(out_scale))


def weight_of(backbone: Tensors, path: str) -> Tensor:
    """Return W (out, in) of a linear map in float32."""
    return backbone[f"{path}.weight"].float()


def bias_of(backbone: Tensors, path: str) -> Tensor | None:
    """Return the backbone's own bias (out,) of a linear map, where it has one."""
    bias = backbone.get(f"{path}.bias")
    return None if bias is None else bias.float()


def total(*terms: Tensor | None) -> Tensor | None:
    """Return the sum of the terms that are not None, None where all are."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


def require_finite(value: Tensor, path: str, values: str) -> Tensor:
    """Return the value, or raise `AdapterMismatchError` unless every number in it is finite."""
    if not bool(torch.isfinite(value).all()):
        raise AdapterMismatchError(
            f"module {path!r}: its {values} are not all finite, in PEFT neither; train it again from before it diverged"
        )
    return value


def _row(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.reshape(1, 1, -1)
