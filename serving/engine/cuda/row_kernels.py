"""Triton kernels for rows of many tasks: each program reads from the row's table where its task's factors are.

A program takes a block of one row's tokens, and of the outputs where each has its own. Ranks differ from row to row; a
program takes them 16 at a time and masks the rest. Products are added in float32.
"""
# Triton reads these functions as its own language, whose types Python's checkers do not know.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from serving.engine.cuda import pointer_tables

RANKS = tl.constexpr(16)  # the least size of a tensor core's product
EIGHT = tl.constexpr(pointer_tables.EIGHT)


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
def _low_rank(z, a, column, ranks, rank, fan_in, total, WIDEN: tl.constexpr):
    """Return total + z a^T over some columns, for some ranks; z (tokens, columns), a (rank, in)."""
    within = (column < fan_in)[:, None] & (ranks < rank)[None, :]
    return _dot(z, tl.load(a + ranks[None, :] * fan_in + column[:, None], mask=within, other=0.0), total, WIDEN)


@triton.jit
def norm_prologue(
    table, norms, x, inputs, low, tokens, dim, row_entries, most, eps,
    WIDEN: tl.constexpr, TOKENS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """inputs[i] = in_scale_i * z[i], and low[i, :, :rank_i] = z[i] a_i^T, z[i] being x[i]'s norm by the row's task.

    x and inputs (n, T, dim), a_i (rank_i, dim), low (n, T, most), whose ranks are filled up with zeros to sixteens.
    """
    row = tl.program_id(0).to(tl.int64)
    entry, norm = table + row * row_entries, norms + row * row_entries
    a, scale, weight, bias = _pointer(entry, 0, x), _pointer(entry, 4, x), _pointer(norm, 0, x), _pointer(norm, 1, x)
    rank, scaled = tl.load(entry + 2).to(tl.int32), tl.load(entry + 4) != 0
    token, column = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, DIM)
    here, within, at = (token < tokens)[:, None], column < dim, (row * tokens + token)[:, None]
    own = tl.load(x + at * dim + column[None, :], mask=here & within[None, :], other=0.0).to(tl.float32)
    centred = tl.where(within[None, :], own - (tl.sum(own, axis=1) / dim)[:, None], 0.0)
    unit = centred * (1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / dim + eps))[:, None]
    unit *= tl.load(weight + column, mask=within, other=0.0).to(tl.float32)[None, :]
    unit += tl.load(bias + column, mask=within, other=0.0).to(tl.float32)[None, :]
    z = unit.to(x.dtype.element_ty)
    by = tl.load(scale + column, mask=within & scaled, other=1.0).to(tl.float32)
    scaled_z = (z.to(tl.float32) * by[None, :]).to(x.dtype.element_ty)
    tl.store(inputs + at * dim + column[None, :], scaled_z, mask=here & within[None, :])
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)
        total = _low_rank(z, a, column, ranks, rank, dim, tl.zeros((TOKENS, RANKS), tl.float32), WIDEN)
        tl.store(low + at * most + ranks[None, :], total.to(low.dtype.element_ty), mask=here)


@triton.jit
def prologue(
    table, x, low, tokens, fan_in, row_entries, most,
    WIDEN: tl.constexpr, TOKENS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """low[i, :, :rank_i] = x[i] a_i^T, then x[i] = in_scale_i * x[i] where the row has a scale.

    x (n, T, in), a_i (rank_i, in), low (n, T, most), whose ranks are filled up with zeros to sixteens.
    """
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    a, scale = _pointer(entry, 0, x), _pointer(entry, 4, x)
    rank = tl.load(entry + 2).to(tl.int32)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    here, at = (token < tokens)[:, None], (row * tokens + token)[:, None]
    for first in range(0, rank, RANKS):
        ranks, total = first + tl.arange(0, RANKS), tl.zeros((TOKENS, RANKS), tl.float32)
        for start in range(0, fan_in, INPUTS):
            column = start + tl.arange(0, INPUTS)
            own = tl.load(x + at * fan_in + column[None, :], mask=here & (column < fan_in)[None, :], other=0.0)
            total = _low_rank(own, a, column, ranks, rank, fan_in, total, WIDEN)
        tl.store(low + at * most + ranks[None, :], total.to(low.dtype.element_ty), mask=here)
    if tl.load(entry + 4) != 0:
        tl.debug_barrier()  # other threads may read what this one writes
        for start in range(0, fan_in, INPUTS):
            column = start + tl.arange(0, INPUTS)
            spot, within = x + at * fan_in + column[None, :], column < fan_in
            by = tl.load(scale + column, mask=within, other=0.0).to(tl.float32)
            own = tl.load(spot, mask=here & within[None, :], other=0.0).to(tl.float32) * by[None, :]
            tl.store(spot, own.to(x.dtype.element_ty), mask=here & within[None, :])


@triton.jit
def add_low_rank(
    table, low, y, into, base_bias, tokens, fan_out, row_entries, most,
    BASE: tl.constexpr, BIASED: tl.constexpr, RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """into[i] = base[i] + low[i, :, :rank_i] b_i^T + bias_i (+ into[i]); all (n, T, out) but low (n, T, most).

    Where BASE the base is out_scale_i * y[i]. Else y is not read: the base is base_bias (out,) or nothing, and W x is
    added to the result later. b_i (out, rank_i rounded up to eights), whose further columns are zeros.
    """
    row = tl.program_id(0).to(tl.int64)
    entry = table + row * row_entries
    b, rank = _pointer(entry, 1, into), tl.load(entry + 2).to(tl.int32)
    bias, scale = _pointer(entry, 3, into), _pointer(entry, 5, into)
    biased, scaled = tl.load(entry + 3) != 0, tl.load(entry + 5) != 0
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    out = tl.program_id(2) * OUTPUTS + tl.arange(0, OUTPUTS)
    at, within = (row * tokens + token)[:, None], out < fan_out
    spot, here = at * fan_out + out[None, :], (token < tokens)[:, None] & within[None, :]
    total = tl.zeros((TOKENS, OUTPUTS), tl.float32)
    if BASE:
        total += tl.load(y + spot, mask=here, other=0.0).to(tl.float32)
        total *= tl.load(scale + out, mask=within & scaled, other=1.0).to(tl.float32)[None, :]
    elif BIASED:
        total += tl.load(base_bias + out, mask=within, other=0.0).to(tl.float32)[None, :]
    total += tl.load(bias + out, mask=within & biased, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        total += tl.load(into + spot, mask=here, other=0.0).to(tl.float32)
    padded = tl.cdiv(rank, EIGHT) * EIGHT
    for first in range(0, rank, RANKS):
        ranks = first + tl.arange(0, RANKS)
        own = tl.load(low + at * most + ranks[None, :], mask=(token < tokens)[:, None], other=0.0)
        factor = tl.load(
            b + out[None, :] * padded + ranks[:, None], mask=within[None, :] & (ranks < padded)[:, None], other=0.0
        )
        total = _dot(own, factor, total, WIDEN)
    tl.store(into + spot, total.to(into.dtype.element_ty), mask=here)
