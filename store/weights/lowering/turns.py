"""The methods that turn what a map takes or gives: OFT, BOFT and RoAd, as PEFT computes them."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from store.adapters.methods.targets import Config
from store.weights.forms import Delta, Forms
from store.weights.lowering.deltas import Tensors, bias_of, by_module, require_finite


def lower_oft(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W (x R) + bias_W, R block-diagonal: Cayley's (1 + Q)^-1 (1 - Q), or its first terms (Qiu et al. 2023)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        above, width = parts["oft_R.weight"], backbone[f"{path}.weight"].shape[1]
        size = _size_of(above.shape[1])
        rows, columns = torch.triu_indices(size, size, 1)
        skew = above.new_zeros(len(above), size, size)
        skew[:, rows, columns] = above
        skew = skew - skew.mT
        turn = _neumann(skew, config) if config.get("use_cayley_neumann", True) else _cayley(skew)
        whole = turn.expand(width // size, size, size)
        deltas[path] = Delta(in_turn=require_finite(whole, path, "turns").contiguous()[None])
    return Forms(deltas)


def lower_boft(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = s * (W (x R)) + bias_W, R block-diagonal by Cayley's formula (Liu et al. 2024, one butterfly factor)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        turn = require_finite(_cayley((parts["boft_R"][0] - parts["boft_R"][0].mT) / 2), path, "turns")
        scale, base = parts["boft_s"].reshape(1, 1, -1), bias_of(backbone, path)
        bias = None if base is None else base - scale * base
        deltas[path] = Delta(in_turn=turn[None], out_scale=scale, bias=bias)
    return Forms(deltas)


def lower_road(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = a cos(t) * h + b sin(t) * h', h = W x + bias_W and h' its pairs turned by 90 degrees (Liao and Monz 2024)."""
    group, variant = cast(int, config["group_size"]), config["variant"]
    deltas = {}
    for path, parts in by_module(tensors).items():
        theta, alpha = parts["road_theta"], parts["road_alpha"]
        if variant == "road_1":  # one angle for both of a pair
            theta, alpha = (v.reshape(-1, group // 2).repeat_interleave(2, dim=0).flatten() for v in (theta, alpha))
        if variant == "road_4":
            (theta1, theta2), (alpha1, alpha2) = (v.reshape(-1, 2, group).unbind(1) for v in (theta, alpha))
            first, second = (alpha1 * theta1.cos()).flatten(), (alpha2 * theta2.sin()).flatten()
        else:
            first, second = alpha * theta.cos(), alpha * theta.sin()
        halves = second.reshape(-1, 2, group // 2) * second.new_tensor([-1.0, 1.0])[:, None]
        deltas[path] = Delta(out_scale=first[None, None], out_turn=halves.reshape(1, 1, -1), group=group)
    return Forms(deltas)


def _size_of(elements: int) -> int:
    """Return the size of a matrix with so many elements above its diagonal."""
    return (1 + math.isqrt(1 + 8 * elements)) // 2


def _cayley(skew: Tensor) -> Tensor:
    unit = torch.eye(skew.shape[-1]).expand_as(skew)
    turn: Tensor = torch.linalg.solve(unit + skew, unit - skew, left=False)
    return turn


def _neumann(skew: Tensor, config: Config) -> Tensor:
    """1 + 2 Q + 2 Q^2 + … + Q^(terms - 1), the last once."""
    terms = cast(int, config["num_cayley_neumann_terms"])
    turn = torch.eye(skew.shape[-1]).repeat(len(skew), 1, 1)
    if terms == 1:
        return turn
    turn += 2 * skew
    if terms > 2:
        power = skew @ skew
        turn += 2 * power
        for _ in range(3, terms - 1):
            power = power @ skew
            turn += 2 * power
        turn += power @ skew
    return turn
