"""The methods whose change of a map is an element-wise or Kronecker product, or a product with W itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from store.adapters.methods.targets import Config, resolve_pattern
from store.weights.forms import Delta, Forms
from store.weights.lowering.deltas import Tensors, by_module, low_rank, require_finite, weight_of

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
)


def lower_loha(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W x + s (w1_a w1_b) * (w2_a w2_b) x: of factors whose columns and rows are all products of two.

    Hyeon-Woo et al. 2022; the r^2 products are the Khatri-Rao products of the factors.
    """
    deltas = {}
    for path, parts in by_module(tensors).items():
        rank = len(parts["hada_w1_b"])
        down = parts["hada_w1_b"][:, None] * parts["hada_w2_b"][None]
        up = parts["hada_w1_a"][:, :, None] * parts["hada_w2_a"][:, None] * _scaling(config, path, rank)
        deltas[path] = low_rank(down.flatten(0, 1), up.flatten(1))
    return Forms(deltas)


def lower_lokr(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W x + s (w1 (x) w2) x = W x + s (l1 (x) l2)(r1 (x) r2) x where w = l r, each w (Yeh et al. 2024)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        (left1, right1), (left2, right2) = _halves("lokr_w1", parts), _halves("lokr_w2", parts)
        rank = cast(int, resolve_pattern(config, "rank_pattern", path, config["r"]))
        left = torch.kron(left1, left2) * _scaling(config, path, rank)
        deltas[path] = low_rank(torch.kron(right1, right2), left)
    return Forms(deltas)


def _halves(name: str, parts: Tensors) -> tuple[Tensor, Tensor]:
    """Return w = left right with the fewest columns of left that its shape allows."""
    low = f"{name}_a" in parts
    if low and parts[f"{name}_b"].shape[0] <= min(len(parts[f"{name}_a"]), parts[f"{name}_b"].shape[1]):
        return parts[f"{name}_a"], parts[f"{name}_b"]
    whole = parts[f"{name}_a"] @ parts[f"{name}_b"] if low else parts[name]
    out, width = whole.shape
    return (torch.eye(out), whole) if out <= width else (whole, torch.eye(width))


def _scaling(config: Config, path: str, rank: int) -> float:
    return cast(float, resolve_pattern(config, "alpha_pattern", path, config["alpha"])) / rank


def lower_hra(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W H_1 ... H_r x, H_i = 1 - 2 u_i u_i^T of length 1 (Yuan et al. 2024).

    The chain is 1 - U T U^T with T^-1 = 1/2 + the upper triangle of U^T U without its diagonal; orthogonal vectors,
    as `apply_GS` makes them, leave T = 2.
    """
    deltas = {}
    for path, parts in by_module(tensors).items():
        vectors = _orthogonal(parts["hra_u"]) if config.get("apply_GS") else F.normalize(parts["hra_u"], dim=0, eps=0)
        vectors = require_finite(vectors, path, "vectors")
        inverse = torch.eye(vectors.shape[1]) / 2
        if not config.get("apply_GS"):
            inverse += torch.triu(vectors.T @ vectors, diagonal=1)
        lifted = weight_of(backbone, path) @ vectors
        deltas[path] = low_rank(vectors.T, -torch.linalg.solve_triangular(inverse, lifted, upper=True, left=False))
    return Forms(deltas)


def _orthogonal(vectors: Tensor) -> Tensor:
    """Make the columns orthogonal and of length 1, each less its part along those before (Gram and Schmidt)."""
    basis: list[Tensor] = []
    for vector in vectors.T:
        for unit in basis:
            vector = vector - (unit @ vector) * unit
        basis.append(vector / vector.norm())
    return torch.stack(basis, dim=1)


def lower_miss(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W x + D^T (sum of x over its parts of length r), the last of which may be shorter (Kang and Yin 2025)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        out, width = backbone[f"{path}.weight"].shape
        block = parts["miss_block"]
        positions = torch.arange(width)
        down = torch.zeros(len(block), width)
        down[positions % len(block), positions] = 1
        deltas[path] = low_rank(down, block.repeat(1, out // block.shape[1]).T)
    return Forms(deltas)


def lower_deft(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = (1 - Q p^T) W x + s Q R x + bias_W: Q and p are P and relu(P), or both P's orthonormal basis."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        basis, taken = parts["deft_P"], F.relu(parts["deft_P"])
        if config.get("decomposition_method") == "qr":
            basis = taken = torch.linalg.qr(basis).Q
        down = -(taken.T @ weight_of(backbone, path))
        if "deft_R" in parts:
            alpha = cast(float | None, config.get("alpha"))
            down = down + parts["deft_R"] * (alpha / basis.shape[1] if alpha else 1.0)
        deltas[path] = low_rank(down, basis)
    return Forms(deltas)


def lower_peanut(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W x + s B h(W)^T x: h is a small network on the columns of W, so that its output is a thin factor."""
    return Forms(
        {path: _peanut(config, parts, weight_of(backbone, path)) for path, parts in by_module(tensors).items()}
    )


def _peanut(config: Config, parts: Tensors, weight: Tensor) -> Delta:
    act = ACTIVATIONS[cast(str, config.get("act_fn", "relu"))]
    depth, scaling = cast(int, config["depth"]), cast(float, config["scaling"])
    hidden = act(weight.T @ parts["peanut_A.weight"].T)  # (in, rank)
    kept = []
    for index in range(depth):
        kept.append(hidden)
        hidden = act(hidden @ parts[f"peanut_encoders.{index}.weight"].T)
    for index in range(depth):
        hidden = act(hidden @ parts[f"peanut_decoders.{index}.weight"].T) + kept.pop()
    return low_rank(hidden.T, parts["peanut_B.weight"] * scaling)
