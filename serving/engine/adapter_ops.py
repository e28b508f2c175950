"""What the tasks of a batch change in a linear map, a norm and a residual: each row by the forms of its own task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar, cast

import torch
from timm.layers import quick_gelu
from torch import Tensor, nn
from torch.nn import functional as F

from store.weights.forms import Bottleneck, Delta, Forms, Norm

Form = TypeVar("Form", Norm, Bottleneck)


@dataclass(frozen=True)
class Linear:
    """y = x @ W^T + bias, with W laid out once for this CPU's bf16 matrix unit where there is one."""

    weight: Tensor
    bias: Tensor | None
    packed: bool

    @classmethod
    def of(cls, linear: nn.Linear) -> Linear:
        weight, bias = linear.weight.detach(), linear.bias
        packed = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
        if packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        return cls(weight, None if bias is None else bias.detach(), packed)

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return F.linear(x, self.weight, self.bias)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return residual + x @ W^T + bias, in one pass over the result where the matrix unit can."""
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
            return y
        return F.linear(x, self.weight, self.bias).add_(residual)


def linear(x: Tensor, base: Linear, deltas: Sequence[Delta | None], residual: Tensor | None = None) -> Tensor:
    """y[i] = out_scale_i * (W (in_scale_i * x[i]) + bias_W) + b_i (a_i x[i]) + bias_i (+ residual[i]).

    x (n, T, in), deltas one for each row or None, residual and y (n, T, out); y is memory of its own.
    """
    groups = list(_alike(deltas))
    scaled = any(same[0].out_scale is not None for _, same in groups)
    inside = _scale_rows(x, groups)
    y = base(inside) if residual is None or scaled else base.plus(inside, residual)
    for rows, same in groups:
        _add(x[rows], y[rows], same)
    return y.add_(residual) if scaled and residual is not None else y


def _scale_rows(x: Tensor, groups: Sequence[tuple[slice, Sequence[Delta]]]) -> Tensor:
    """Return in_scale_i * x[i], and x itself where no row has a scale."""
    scales = [(rows, _stack(same, "in_scale")) for rows, same in groups if same[0].in_scale is not None]
    if not scales:
        return x
    scaled = x.clone()
    for rows, scale in scales:
        scaled[rows] *= scale
    return scaled


def layer_norm(x: Tensor, base: nn.Module, norms: Sequence[Norm | None]) -> Tensor:
    """Return the norm of each row by its task's weight and bias, or by the backbone's; x (n, …, dim)."""
    if all(norm is None for norm in norms):
        out: Tensor = base(x)
        return out
    out, eps = torch.empty_like(x), cast(nn.LayerNorm, base).eps
    for rows, norm in _same(norms):
        own = x[rows]
        out[rows] = base(own) if norm is None else F.layer_norm(own, own.shape[-1:], norm.weight, norm.bias, eps)
    return out


def add_bottlenecks(
    x: Tensor, bottlenecks: Sequence[Bottleneck | None], inputs: Mapping[str, Tensor], grid: tuple[int, int]
) -> Tensor:
    """x[i] += g_i(v[i])  # in place

    x (n, T, dim); `inputs` are what bottlenecks may take as v, x as it was among them; the last grid[0] * grid[1]
    tokens are patches, row by row.
    """
    added = [
        (rows, bottleneck_of(inputs[form.input][rows], form, grid))
        for rows, form in _same(bottlenecks)
        if form is not None
    ]
    for rows, g in added:
        x[rows] += g
    return x


def bottleneck_of(v: Tensor, form: Bottleneck, grid: tuple[int, int]) -> Tensor:
    """g(v) = act(v @ down + down_bias) @ up + up_bias, with act(conv(.)) before `up` where there is a convolution."""
    act = ACTIVATIONS[form.activation]
    hidden = act(v @ form.down + form.down_bias)
    if form.conv is not None:
        hidden = act(_convolve(hidden, form.conv, form.conv_bias, grid))
    return hidden @ form.up + form.up_bias


def _alike(deltas: Sequence[Delta | None]) -> Iterator[tuple[slice, list[Delta]]]:
    """Yield the rows that follow each other with deltas of one shape, and these deltas; rows without are left out."""
    start = 0
    for _, group in groupby(deltas, lambda delta: None if delta is None else delta.shape):
        same = list(group)
        found = [delta for delta in same if delta is not None]
        if found:
            yield slice(start, start + len(same)), found
        start += len(same)


def _same(forms: Sequence[Form | None]) -> Iterator[tuple[slice, Form | None]]:
    start = 0
    for _, group in groupby(forms, id):
        same = list(group)
        yield slice(start, start + len(same)), same[0]
        start += len(same)


def _add(x: Tensor, y: Tensor, deltas: Sequence[Delta]) -> None:
    """Change y (n, T, out) in place by deltas of one shape."""
    rank, biased, _, scaled = deltas[0].shape
    if scaled and biased:
        torch.addcmul(_stack(deltas, "bias"), y, _stack(deltas, "out_scale"), out=y)
    elif scaled:
        y *= _stack(deltas, "out_scale")
    elif biased:
        y += _stack(deltas, "bias")
    if rank:
        y.baddbmm_(torch.bmm(x, _stack(deltas, "a").mT), _stack(deltas, "b").mT)


def _stack(deltas: Sequence[Delta], part: str) -> Tensor:
    """Return a part that all the deltas have, one after the other along the first axis."""
    tensors: list[Tensor] = [getattr(delta, part) for delta in deltas]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _convolve(hidden: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> Tensor:
    height, width = grid
    prefix, patches = hidden[:, : -height * width], hidden[:, -height * width :]
    image = patches.transpose(1, 2).reshape(len(hidden), -1, height, width)
    beside = F.conv2d(image, weight, bias, padding=1).flatten(2).transpose(1, 2)
    # on a grid of one, a 3 x 3 convolution is its middle
    return torch.cat([F.linear(prefix, weight[:, :, 1, 1], bias), beside], dim=1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "quick_gelu": quick_gelu}


def deltas_of(tasks: Sequence[Forms], path: str) -> list[Delta | None]:
    return [task.deltas.get(path) for task in tasks]


def norms_of(tasks: Sequence[Forms], path: str) -> list[Norm | None]:
    return [task.norms.get(path) for task in tasks]


def bottlenecks_of(tasks: Sequence[Forms], path: str) -> list[Bottleneck | None]:
    return [task.bottlenecks.get(path) for task in tasks]
