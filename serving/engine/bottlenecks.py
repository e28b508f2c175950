"""What the bottlenecks of a batch's tasks add to a residual: each row by the bottleneck of its own task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from timm.layers import quick_gelu
from torch import Tensor
from torch.nn import functional as F

from serving.engine.row_groups import group_by_form
from store.weights.forms import Bottleneck, Forms

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "quick_gelu": quick_gelu}


def bottlenecks_of(tasks: Sequence[Forms], path: str) -> list[Bottleneck | None]:
    return [task.bottlenecks.get(path) for task in tasks]


def add_bottlenecks(
    x: Tensor, bottlenecks: Sequence[Bottleneck | None], inputs: Mapping[str, Tensor], grid: tuple[int, int]
) -> Tensor:
    """x[i] += g_i(v[i])  # in place

    x (n, T, dim); `inputs` are what bottlenecks may take as v, x before the change among them; the last
    grid[0] * grid[1] tokens are patches, row by row.
    """
    added = [
        (rows, bottleneck(inputs[form.input][rows], form, grid))
        for rows, form in group_by_form(bottlenecks)
        if form is not None
    ]
    for rows, g in added:
        x[rows] += g
    return x


def bottleneck(v: Tensor, form: Bottleneck, grid: tuple[int, int]) -> Tensor:
    """g(v) = act(v @ down + down_bias) @ up + up_bias, with act(conv(.)) before `up` where there is a convolution."""
    act = ACTIVATIONS[form.activation]
    hidden = act(v @ form.down + form.down_bias)
    if form.conv is not None:
        hidden = act(_convolve(hidden, form.conv, form.conv_bias, grid))
    return hidden @ form.up + form.up_bias


def _convolve(hidden: Tensor, weight: Tensor, bias: Tensor | None, grid: tuple[int, int]) -> Tensor:
    height, width = grid
    prefix, patches = hidden[:, : -height * width], hidden[:, -height * width :]
    image = patches.transpose(1, 2).reshape(len(hidden), -1, height, width)
    convolved = F.conv2d(image, weight, bias, padding=1).flatten(2).transpose(1, 2)
    # on a grid of one, a 3 x 3 convolution is its middle
    return torch.cat([F.linear(prefix, weight[:, :, 1, 1], bias), convolved], dim=1)
