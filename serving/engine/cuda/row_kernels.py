"""Triton kernels for rows of many tasks: each program reads from the row's table where its task's factors are.

A program takes a block of one row's tokens, and of the outputs where there are many. Ranks differ from row to row; a
program takes them 16 at a time and masks the rest. Products are added in float32.
"""
# Triton reads these functions as its own language, whose types Python's checkers do not know.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

RANKS = tl.constexpr(16)  # the least size of a tensor core's product


@triton.jit
def _pointer(entry, field: tl.constexpr, like):
    """Return a table's field as a pointer to the elements that `like` points to."""
    return tl.multiple_of(tl.load(entry + field).to(tl.pointer_type(like.dtype.element_ty)), 16)


@triton.jit
def _dot(a, b, total, WIDEN: tl.constexpr):
    """Return total + a @ b; WIDEN is for Triton's interpreter, which multiplies the bits of bfloat16 as integers."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def to_low_rank(
    table, x, low, tokens, fan_in, row_entries, most, WIDEN: tl.constexpr, TOKENS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    """low[i, :, :rank_i] = x[i] a_i^T; x (n, T, in), a_i (rank_i, in), low (n, T, most)."""
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    a, rank = _pointer(entry, 0, x), tl.load(entry + 2).to(tl.int32)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    here = (token < tokens)[:, None]
    x += row * tokens * fan_in + token[:, None] * fan_in
    low += row * tokens * most + token[:, None] * most
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)[None, :]
        total = tl.zeros((TOKENS, RANKS), tl.float32)
        for start in range(0, fan_in, INPUTS):
            inputs = start + tl.arange(0, INPUTS)
            own = tl.load(x + inputs[None, :], mask=here & (inputs < fan_in)[None, :], other=0.0)
            factor = tl.load(
                a + ranks * fan_in + inputs[:, None], mask=(ranks < rank) & (inputs < fan_in)[:, None], other=0.0
            )
            total = _dot(own, factor, total, WIDEN)
        tl.store(low + ranks, total.to(low.dtype.element_ty), mask=here & (ranks < rank))


@triton.jit
def add_low_rank(
    table, low, y, into, tokens, fan_out, row_entries, most,
    RESIDUAL: tl.constexpr, WIDEN: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """into[i] = out_scale_i * y[i] + low[i, :, :rank_i] b_i^T + bias_i (+ into[i])

    y and into (n, T, out), the same memory where there is no residual; b_i (out, rank_i), low (n, T, most).
    """
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    b, rank = _pointer(entry, 1, y), tl.load(entry + 2).to(tl.int32)
    bias, scale = _pointer(entry, 3, y), _pointer(entry, 5, y)
    biased, scaled = tl.load(entry + 3) != 0, tl.load(entry + 5) != 0
    if (rank > 0) | biased | scaled | RESIDUAL:
        token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
        out = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
        at = row * tokens * fan_out + token[:, None] * fan_out + out[None, :]
        here, within = (token < tokens)[:, None], out < fan_out
        total = tl.load(y + at, mask=here & within[None, :], other=0.0).to(tl.float32)
        total *= tl.load(scale + out, mask=within & scaled, other=1.0).to(tl.float32)[None, :]
        total += tl.load(bias + out, mask=within & biased, other=0.0).to(tl.float32)[None, :]
        if RESIDUAL:
            total += tl.load(into + at, mask=here & within[None, :], other=0.0).to(tl.float32)
        factors = low + row * tokens * most + token[:, None] * most
        for first in range(0, rank, RANKS):
            ranks = first + tl.arange(0, RANKS)
            own = tl.load(factors + ranks[None, :], mask=here & (ranks < rank)[None, :], other=0.0)
            factor = tl.load(
                b + out[None, :] * rank + ranks[:, None], mask=within[None, :] & (ranks < rank)[:, None], other=0.0
            )
            total = _dot(own, factor, total, WIDEN)
        tl.store(into + at, total.to(into.dtype.element_ty), mask=here & within[None, :])


@triton.jit
def scale_inputs(table, x, scaled, tokens, fan_in, row_entries, INPUTS: tl.constexpr):
    """scaled[i] = in_scale_i * x[i], or x[i] where the row has no scale; both (n, T, in)."""
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    scale, is_scaled = _pointer(entry, 4, x), tl.load(entry + 4) != 0
    inputs = tl.program_id(2) * INPUTS + tl.arange(0, INPUTS)
    at, within = (row * tokens + tl.program_id(1)) * fan_in + inputs, inputs < fan_in
    factor = tl.load(scale + inputs, mask=within & is_scaled, other=1.0).to(tl.float32)
    own = tl.load(x + at, mask=within, other=0.0).to(tl.float32)
    tl.store(scaled + at, (own * factor).to(scaled.dtype.element_ty), mask=within)


@triton.jit
def row_layer_norm(table, x, normed, tokens, dim, row_entries, eps, DIM: tl.constexpr):
    """normed[i] = weight_i * (x[i] - mean) / sqrt(variance + eps) + bias_i, over the last axis of (n, T, dim)."""
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    weight, bias = _pointer(entry, 0, x), _pointer(entry, 1, x)
    inputs = tl.arange(0, DIM)
    at, within = (row * tokens + tl.program_id(1)) * dim + inputs, inputs < dim
    own = tl.load(x + at, mask=within, other=0.0).to(tl.float32)
    centred = tl.where(within, own - tl.sum(own, axis=0) / dim, 0.0)
    unit = centred / tl.sqrt(tl.sum(centred * centred, axis=0) / dim + eps)
    unit *= tl.load(weight + inputs, mask=within, other=0.0).to(tl.float32)
    unit += tl.load(bias + inputs, mask=within, other=0.0).to(tl.float32)
    tl.store(normed + at, unit.to(normed.dtype.element_ty), mask=within)
