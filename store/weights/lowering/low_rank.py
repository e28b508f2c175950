"""The methods whose change of a map is a product of two thin factors that the file holds, as PEFT computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from store.adapters.methods.low_rank import tinylora_groups
from store.adapters.methods.targets import Config, resolve_pattern
from store.errors import AdapterMismatchError
from store.weights.forms import Delta, Forms
from store.weights.lowering.deltas import (
    Tensors,
    bias_of,
    by_module,
    in_order,
    low_rank,
    require_finite,
    total,
    weight_of,
)


def lower_lora(config: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W x + bias_W + s (B A x + bias), s being LoRA's scaling (Hu et al. 2022, section 4.1); or DoRA.

    DoRA (Liu et al. 2024, equation 5): m / ||W + s B A|| times the product without bias_W, row by row of W. With bias
    'lora_only' the file's bias stands in for bias_W.
    """
    return Forms({path: _lora(config, path, parts, backbone) for path, parts in by_module(tensors).items()})


def _lora(config: Config, path: str, parts: Tensors, backbone: Tensors) -> Delta:
    down = parts["lora_A.weight"]
    scaling = lora_scaling(config, path, len(down))
    up, bias, magnitude = parts["lora_B.weight"] * scaling, parts.get("lora_B.bias"), parts.get("lora_magnitude_vector")
    shift, base = None if bias is None else bias * scaling, bias_of(backbone, path)
    own = parts.get("base_layer.bias", base)
    if magnitude is None:
        return low_rank(down, up, shift if own is base else total(shift, own, None if base is None else -base))
    norm = torch.linalg.vector_norm(torch.addmm(weight_of(backbone, path), up, down), dim=1)
    scale = require_finite(magnitude / norm, path, "magnitudes")
    return low_rank(down, up * scale[:, None], total(own, None if base is None else -scale * base), scale)


def lora_scaling(config: Mapping[str, object], path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) when rank-stabilised (Kalajdzievski 2023); alpha_pattern goes first."""
    alpha = cast(float, resolve_pattern(config, "alpha_pattern", path, config["lora_alpha"]))
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def lower_adalora(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W x + alpha / init_r * B (E * A x) (Zhang et al. 2023, equation 3); directions that were pruned are gone."""
    scaling = cast(float, config["lora_alpha"]) / (cast(int, config["init_r"]) + 1e-5)
    return Forms(
        {
            path: low_rank(parts["lora_A"] * parts["lora_E"], parts["lora_B"] * scaling)
            for path, parts in by_module(tensors).items()
            if len(parts["lora_A"])
        }
    )


def lower_vera(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """y = W x + b * (B (d * A x)), A and B shared and cut to the map's sizes (Kopiczko et al. 2024, equation 2)."""
    return _vectors(tensors, backbone, "vera")


def lower_pvera(_: Config, tensors: Tensors, backbone: Tensors) -> Forms:
    """VeRA on the means alone, which are the first half of A's rows: nothing is drawn when it answers."""
    return _vectors(tensors, backbone, "pvera")


def _vectors(tensors: Tensors, backbone: Tensors, kind: str) -> Forms:
    shared_a, shared_b = tensors[f"base_model.{kind}_A"].float(), tensors[f"base_model.{kind}_B"].float()
    rank, deltas = shared_b.shape[1], {}
    for path, parts in by_module(tensors).items():
        before, after = parts[f"{kind}_lambda_d"][:rank, None], parts[f"{kind}_lambda_b"][:, None]
        out, width = backbone[f"{path}.weight"].shape
        deltas[path] = low_rank(shared_a[:rank, :width] * before, shared_b[:out] * after)
    return Forms(deltas)


def lower_delora(_: Config, tensors: Tensors, __: Tensors) -> Forms:
    """y = W x + B (lambda / (r ||a_i|| ||b_i||) * A (||w_j|| * x)) (Bini et al. 2025)."""
    deltas = {}
    for path, parts in by_module(tensors).items():
        down, up = parts["delora_A"], parts["delora_B"]
        norms = down.norm(dim=1).clamp(min=1e-4) * up.norm(dim=0).clamp(min=1e-4)
        scaling = require_finite(parts["delora_lambda"] / len(down) / norms, path, "norms")
        deltas[path] = low_rank(down * parts["delora_w_norm"], up * scaling)
    return Forms(deltas)


def lower_gralora(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """Part j of the output takes part j of what each part n of the input gives: y_j = s sum_n (A_n x_n)_j B_j.

    Jung et al. 2025: k x k blocks, each of rank r / k, so k r in all; and a LoRA of rank hybrid_r beside.
    """
    rank, hybrid = cast(int, config["r"]), cast(int, config["hybrid_r"])
    scaling, deltas = cast(float, config["alpha"]) / (rank + hybrid), {}
    for path, parts in by_module(tensors).items():
        first, second = parts["gralora_A"], parts["gralora_B"] * scaling
        count, part_rank = len(first), rank // len(first)
        down = torch.block_diag(*first.transpose(1, 2))  # type: ignore[no-untyped-call]  # torch leaves it untyped
        up = second.new_zeros(count, second.shape[2], count, count, part_rank)  # (j, out of j, n, j, s)
        for j, block in enumerate(second):
            up[j, :, :, j] = block.reshape(count, part_rank, -1).permute(2, 0, 1)
        up = up.reshape(count * second.shape[2], count * rank)
        if hybrid:
            down = torch.cat([down, parts["gralora_A_general.weight"]])
            up = torch.cat([up, parts["gralora_B_general.weight"] * scaling], dim=1)
        deltas[path] = low_rank(down, up)
    return Forms(deltas)


def lower_vblora(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """A and B are rows of vectors from a bank, each the softmax-weighted mean of its `topk` best (Li et al. 2024)."""
    bank, deltas = tensors["base_model.vblora_vector_bank"].float(), {}
    for path, parts in by_module(tensors).items():
        a, b = (_mix(f"vblora_logits_{side}", parts, bank, cast(int, config["topk"]), path) for side in "AB")
        deltas[path] = low_rank(a.flatten(1), b.transpose(1, 2).flatten(0, 1))
    return Forms(deltas)


def _mix(name: str, parts: Tensors, bank: Tensor, topk: int, path: str) -> Tensor:
    """Return (places, places, vector_length)."""
    if name in parts:
        logits, indices = parts[name].topk(topk, dim=-1)
        weights = F.softmax(logits, dim=-1)
    else:
        indices, first = parts[f"{name}_topk_indices"].long(), parts[f"{name}_topk_weights"]
        weights = torch.cat([first, 1 - first.sum(-1, keepdim=True)], dim=-1)
        in_a_row = indices.sort(dim=-1).values
        if bool((weights <= 0).any()) or bool((in_a_row.diff() == 0).any()):
            raise AdapterMismatchError(
                f"module {path!r}: {name} names a vector twice or gives it no weight above 0: save it with PEFT again"
            )
    _check_within(indices, len(bank), path)
    return (weights[..., None] * bank[indices]).sum(-2)


def lower_unilora(_: Config, tensors: Tensors, __: Tensors) -> Forms:
    """Every element of A and B is one of a vector's, times a constant (Li et al. 2025, Uni-LoRA)."""
    vector, deltas = tensors["base_model.unilora_theta_d"].float(), {}
    for path, parts in by_module(tensors).items():
        sides = []
        for side in "AB":
            indices = parts[f"unilora_indices_{side}"].long()
            _check_within(indices, len(vector), path)
            sides.append(vector[indices] * parts[f"unilora_scales_{side}"])
        deltas[path] = low_rank(*sides)
    return Forms(deltas)


def lower_tinylora(config: Config, tensors: Tensors, _: Tensors) -> Forms:
    """y = W x + B (sum_i v_i P_i) A x, A and B from W's singular vectors, v shared by a group of modules."""
    modules, deltas = by_module(tensors), {}
    paths = in_order(modules)
    for path, group in zip(paths, tinylora_groups(config, len(paths)), strict=True):
        parts, vector = modules[path], tensors[f"base_model.tinylora_v.{group}"].float()
        mixed = torch.einsum("i,ijk->jk", vector, parts["tinylora_P"])
        deltas[path] = low_rank(parts["tinylora_A"], parts["tinylora_B"] @ mixed)
    return Forms(deltas)


def _check_within(indices: Tensor, size: int, path: str) -> None:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise AdapterMismatchError(
            f"module {path!r}: an index is outside 0..{size - 1}, the shared numbers: save the adapter with PEFT again"
        )
