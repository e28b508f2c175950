"""The methods that scale and shift what a map takes or gives, or that bring norms of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from store.adapters.methods.spec import PREFIX
from store.adapters.methods.targets import Config, is_feedforward
from store.errors import AdapterMismatchError
from store.weights.forms import Delta, Forms, Norm
from store.weights.lowering.deltas import Tensors, bias_of, by_module, low_rank, scaled, total, weight_of

LN_WEIGHT, LN_BIAS = ".ln_tuning_layers.weight", ".ln_tuning_layers.bias"


def lower_ia3(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W (l * x) + bias_W in a feedforward module, l * (W x + bias_W) in another (Liu et al. 2022, section 3.3)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        scale = parts["ia3_l"]
        deltas[path] = scaled(in_scale=scale) if is_feedforward(config, path) else scaled(out_scale=scale)
    return Forms(deltas)


def lower_beft(_: Config, tensors: Tensors, __: Tensors) -> Forms:
    """y = W x + bias_W + bias."""
    return Forms({path: scaled(bias=parts["beft_bias"]) for path, parts in by_module(tensors).items()})


def lower_ln(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """Give each norm its own weight and bias (Zhao et al. 2024)."""
    norms = {}
    for key, weight in tensors.items():
        if key.endswith(LN_WEIGHT):
            stem = key.removesuffix(LN_WEIGHT)
            path = stem.removeprefix(PREFIX)
            if f"{path}.bias" not in backbone:
                raise AdapterMismatchError(
                    f"module {path!r} is not a norm with weight and bias in this backbone: use the adapter with the "
                    "backbone it was tuned on"
                )
            norms[path] = Norm(weight.float(), tensors[stem + LN_BIAS].float())
    return Forms(norms=norms)


def lower_glora(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = (W + W A + B) x + bias_W + bias_W D + E + W C (Chavan et al. 2023), A and B by row of W."""
    return Forms({path: _glora(path, parts, backbone) for path, parts in by_module(tensors).items()})


def _glora(path: str, parts: Tensors, backbone: Tensors) -> Delta:
    weight, base = weight_of(backbone, path), bias_of(backbone, path)
    out, width = weight.shape
    a, b = (parts[f"glora_{name}.X"].reshape(-1).expand(out) for name in "AB")
    if base is None:  # PEFT leaves C, D and E out then
        return low_rank(torch.ones(1, width), b[:, None], None, 1 + a)
    d, e = (_path(parts, name).expand(out) for name in "DE")
    # out_scale multiplies bias_W by 1 + A, which PEFT does not
    bias = total(base * (d - a), e, weight @ _path(parts, "C"))
    return low_rank(torch.ones(1, width), b[:, None], bias, 1 + a)


def _path(parts: Tensors, name: str) -> Tensor:
    """Return a vector: PEFT's `lora`, `vector`, `constant` or `none`."""
    if f"glora_{name}.Xd" in parts:
        return (parts[f"glora_{name}.Xd"] @ parts[f"glora_{name}.Xu"]).reshape(-1)
    return parts.get(f"glora_{name}.X", parts.get(f"glora_{name}.zeros", torch.zeros(1))).reshape(-1)
