"""The slow twin of slices: a pruned task at full width, where what it leaves out is multiplied by zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from store.adapters.widths import FC1, FC2, PROJ, QKV
from store.weights.forms import Delta, Forms, Kept
from store.weights.width import places

MAPS = {"attn": (QKV, PROJ), "mlp": (FC1, FC2)}


def widen(forms: Forms, *, head_dim: int, dtype: torch.dtype) -> Forms:
    """Return the forms at the backbone's shapes: the last map of attention and MLP takes 0 where nothing is kept.

    Heads do not see each other, nor do units, so the others give what they gave before.
    """
    deltas = dict(forms.deltas)
    for path, kept in forms.kept.items():
        block, name = path.rsplit(".", 1)
        size = head_dim if name == "attn" else 1
        first, last = (f"{block}.{kind}" for kind in MAPS[name])
        if first in deltas:
            deltas[first] = _widen_output(deltas[first], kept, 3 if name == "attn" else 1, size)
        deltas[last] = _widen_input(deltas.get(last, Delta()), kept, size, dtype)
    return replace(forms, deltas=deltas, kept={})


def _widen_output(delta: Delta, kept: Kept, parts: int, size: int) -> Delta:
    """Give rows of zeros to what is left out, and a scale of 1."""
    rows = _numbers(kept, size)
    rows = torch.cat([rows + part * kept.total * size for part in range(parts)])
    total = parts * kept.total * size
    return replace(
        delta,
        b=_spread(delta.b, 1, rows, total, 0.0),
        bias=_spread(delta.bias, 2, rows, total, 0.0),
        out_scale=_spread(delta.out_scale, 2, rows, total, 1.0),
    )


def _widen_input(delta: Delta, kept: Kept, size: int, dtype: torch.dtype) -> Delta:
    """Multiply what is left out by 0, whatever the map and its low-rank part would make of it."""
    columns, total = _numbers(kept, size), kept.total * size
    ones = torch.ones(1, 1, len(columns), dtype=dtype)
    scale = ones if delta.in_scale is None else delta.in_scale
    return replace(
        delta,
        a=_spread(delta.a, 2, columns, total, 0.0),
        in_scale=_spread(scale, 2, columns, total, 0.0),
    )


def _numbers(kept: Kept, size: int) -> Tensor:
    return (places(kept)[:, None] * size + torch.arange(size)).flatten()


def _spread(tensor: Tensor | None, dim: int, at: Tensor, total: int, value: float) -> Tensor | None:
    """Put a tensor's slices at these places of a larger one, filled with the value elsewhere."""
    if tensor is None:
        return None
    shape = list(tensor.shape)
    shape[dim] = total
    return torch.full(shape, value, dtype=tensor.dtype).index_copy(dim, at, tensor)
