"""What the tasks of a batch change in a linear map and in a norm: each row by the forms of its own task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from serving.engine.kernels import JoinedLinear, Linear
from serving.engine.row_groups import group_by_form, group_by_shape
from store.weights.forms import Delta, Forms, Norm


def linear(
    x: Tensor, base: Linear | JoinedLinear, deltas: Sequence[Delta | None], residual: Tensor | None = None
) -> Tensor:
    """y[i] = out_scale_i * (W (in_scale_i * x[i]) + bias_W) + b_i (a_i x[i]) + bias_i (+ residual[i]).

    Where a delta has turns, W sees turned inputs and its outputs are turned, as `Delta` says. x (n, T, in), deltas one
    for each row or None, residual and y (n, T, out); y is memory of its own.
    """
    groups = list(group_by_shape(deltas))
    scaled = any(group[0].out_scale is not None or group[0].out_turn is not None for _, group in groups)
    inputs = _turn_rows(_scale_rows(x, groups), groups)
    y = base(inputs) if residual is None or scaled else base.plus(inputs, residual)
    for rows, group in groups:
        _add(x[rows], y[rows], group)
    return y.add_(residual) if scaled and residual is not None else y


def layer_norm(x: Tensor, base: nn.Module, norms: Sequence[Norm | None]) -> Tensor:
    """Return the norm of each row by its task's weight and bias, or by the backbone's; x (n, …, dim)."""
    if all(norm is None for norm in norms):
        return cast(Tensor, base(x))
    out, eps = torch.empty_like(x), cast(nn.LayerNorm, base).eps
    for rows, norm in group_by_form(norms):
        own = x[rows]
        out[rows] = base(own) if norm is None else F.layer_norm(own, own.shape[-1:], norm.weight, norm.bias, eps)
    return out


def deltas_of(tasks: Sequence[Forms], path: str) -> list[Delta | None]:
    return [task.deltas.get(path) for task in tasks]


def norms_of(tasks: Sequence[Forms], path: str) -> list[Norm | None]:
    return [task.norms.get(path) for task in tasks]


def _scale_rows(x: Tensor, groups: Sequence[tuple[slice, Sequence[Delta]]]) -> Tensor:
    """Return in_scale_i * x[i], and x itself where no row has a scale."""
    scales = [(rows, _stack(deltas, "in_scale")) for rows, deltas in groups if deltas[0].in_scale is not None]
    if not scales:
        return x
    scaled = x.clone()
    for rows, scale in scales:
        scaled[rows] *= scale
    return scaled


def _turn_rows(inputs: Tensor, groups: Sequence[tuple[slice, Sequence[Delta]]]) -> Tensor:
    """Multiply the parts of each row that has turns by them; the inputs of no other row change."""
    turned = inputs
    for rows, deltas in groups:
        if deltas[0].in_turn is not None:
            turned = turned.clone() if turned is inputs else turned
            turns = _stack(deltas, "in_turn")  # (n, parts, size, size)
            parts = inputs[rows].reshape(len(turns), -1, *turns.shape[1:3])  # (n, tokens, parts, size)
            turned[rows] = torch.einsum("ntpk,npkc->ntpc", parts, turns).flatten(2)
    return turned


def _exchanged(y: Tensor, group: int) -> Tensor:
    """Return y with the two halves of each group of outputs exchanged."""
    return y.reshape(*y.shape[:2], -1, 2, group // 2).flip(3).flatten(2)


def _add(x: Tensor, y: Tensor, deltas: Sequence[Delta]) -> None:
    """Change y (n, T, out) in place by deltas of one shape."""
    rank, biased, _, scaled = deltas[0].shape
    turned = None if deltas[0].out_turn is None else _stack(deltas, "out_turn") * _exchanged(y, deltas[0].group)
    if scaled and biased:
        torch.addcmul(_stack(deltas, "bias"), y, _stack(deltas, "out_scale"), out=y)
    elif scaled:
        y *= _stack(deltas, "out_scale")
    elif biased:
        y += _stack(deltas, "bias")
    if turned is not None:
        y += turned
    if rank:
        y.baddbmm_(torch.bmm(x, _stack(deltas, "a").mT), _stack(deltas, "b").mT)


def _stack(deltas: Sequence[Delta], part: str) -> Tensor:
    """Return a part that all the deltas have, one after the other along the first axis."""
    tensors: list[Tensor] = [getattr(delta, part) for delta in deltas]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
