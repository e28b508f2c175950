// What tasks add to a linear map: x A^T of each row by its own task, and the terms that a product adds to its squares.
#pragma once
#include "chunk.h"

INLINE i64 slices_of(i64 rank) { return (rank + 31) / 32; }
INLINE i64 even(i64 rank) { return (rank + 1) & ~(i64)1; }

// A task's factor, packed [pairs of numbers][even ranks][2], and the slices of numbers that are there of all.
// `kept`: where the sums of a part wait for the next, by `place`; null where all slices are there.
struct Factor { const bf16* a; i64 rank, first, last, all; float* kept; };

template <bool two, bool wide>
INLINE void factor_square(const Factor& f, const bf16* tokens, int slice, float* upper, float* lower) {
  const i64 steps = f.last - f.first, stride = even(f.rank) * 4;
  Sums s;
  s.start_zero();
  if (f.first) {
    s.start_upper(upper, 128);
    if (two) s.start_lower(lower, 128);
  }
  const bf16* factor = f.a + f.first * 8 * stride + slice * 64;
  s.template multiply_factor<two, wide>(tokens, tokens + steps * 512, factor, stride, steps);
  s.store_upper(upper, 128);
  if (two) s.store_lower(lower, 128);
}

// `take(tile, slice, 16 tokens x 32 ranks, wide)` gets x A^T of all tiles that a row touches, other rows' tokens too.
template <class Take>
INLINE void lower_row(const Chunk& c, int row, const bf16* a, const Factor& f, Take&& take) {
  alignas(64) float sums[1024];
  const int from = row * c.tokens / 16, to = ((row + 1) * c.tokens - 1) / 16 + 1;
  const i64 steps = f.last - f.first;
  for (int t = from; t < to; t += 2)
    for (int slice = 0; slice < slices_of(f.rank); slice++) {
      const bool two = t + 1 < to, wide = f.rank > slice * 32 + 16;
      float* upper = f.kept ? f.kept + place(c, t, row) + slice * 512 : sums;
      float* lower = f.kept && two ? f.kept + place(c, t + 1, row) + slice * 512 : sums + 512;
      const bf16* tokens = a + t * steps * 512;
      if (two && wide) factor_square<true, true>(f, tokens, slice, upper, lower);
      else if (two) factor_square<true, false>(f, tokens, slice, upper, lower);
      else if (wide) factor_square<false, true>(f, tokens, slice, upper, lower);
      else factor_square<false, false>(f, tokens, slice, upper, lower);
      if (f.last < f.all) continue;
      take(t, slice, upper, wide);
      if (two) take(t + 1, slice, lower, wide);
    }
}

// The ranks of one token: two halves, or one half in two sums.
INLINE v16 left_ranks(const float* sums, bool wide) { return wide ? load(sums) : load(sums) + load(sums + 16); }
INLINE v16 right_ranks(const float* sums, bool wide) { return wide ? load(sums + 16) : all(0.f); }

// x A^T of all rows that have one, as bf16; zero in other rows' tokens and beyond the rank, whatever is there.
static void lower(const Chunk& c, int map, const bf16* a, i64 first, i64 last, i64 all, bf16* low) {
  float* kept = first || last < all ? c.low_sums : nullptr;
  for (int row = 0; row < c.rows; row++) {
    const Delta* delta = c.forms[row] ? &c.forms[row]->maps[map] : nullptr;
    if (!delta || !delta->rank) continue;
    const int begin = row * c.tokens, end = begin + c.tokens;
    lower_row(c, row, a, Factor{delta->a, delta->rank, first, last, all, kept}, [&](int t, int slice, const float* sums, bool wide) {
      bf16* out = low + place(c, t, row) + slice * 512;
      const int left = (int)(delta->rank - slice * 32);
      for (int r = 0; r < 16; r++, out += 32, sums += 32) {
        const bool own = t * 16 + r >= begin && t * 16 + r < end;
        store_bf16(out, first_lanes(own ? left : 0, left_ranks(sums, wide)), first_lanes(own ? left - 16 : 0, right_ranks(sums, wide)));
      }
    });
  }
}

// A square's terms: for each row that it touches, each slice of ranks.
static int list_terms(const Chunk& c, int map, const bf16* low, int upper, bool two, Term* out) {
  int count = 0;
  const int end = two ? c.last[upper + 1] : c.last[upper];
  for (int row = c.first[upper]; row <= end; row++) {
    const Delta* delta = c.forms[row] ? &c.forms[row]->maps[map] : nullptr;
    if (!delta) continue;
    const bool in_upper = row <= c.last[upper], in_lower = two && row >= c.first[upper + 1];
    for (int slice = 0; slice < slices_of(delta->rank); slice++)
      out[count++] = {in_upper ? low + place(c, upper, row) + slice * 512 : nullptr,
                      in_lower ? low + place(c, upper + 1, row) + slice * 512 : nullptr,
                      delta->b + slice * 512, even(delta->rank) * 16};
  }
  return count;
}

// What the rows' tasks change in a map, as its product takes it; `low` is x A^T.
static Operands with_tasks(Chunk& c, int index, const Linear& map, const bf16* a, const bf16* low) {
  for (int row = 0; row < c.rows; row++) {
    const Delta* delta = c.forms[row] ? &c.forms[row]->maps[index] : nullptr;
    const float* bias = delta && delta->bias ? delta->bias : map.bias;
    if (delta && delta->out_scale) c.token_forms[row] = {delta->out_scale, bias, nullptr};
    else c.token_forms[row] = {nullptr, nullptr, bias};
  }
  Term* terms = c.terms;
  for (int q = 0; q * 2 < c.tiles; q++) {
    const bool two = q * 2 + 1 < c.tiles;
    const int end = two ? c.last[q * 2 + 1] : c.last[q * 2];
    Square square = {terms, list_terms(c, index, low, q * 2, two, terms), true, false};
    for (int row = c.first[q * 2]; row <= end; row++) {
      square.uniform &= c.token_forms[row].bias == c.token_forms[end].bias;
      square.scaled |= c.token_forms[row].scale != nullptr;
    }
    terms += square.term_count;
    c.squares[q] = square;
  }
  return {&map, a, c.tiles, c.count, c.squares, c.token_forms, c.row_of, 0, (int)(map.out / 32), 0, map.in / 32, nullptr};
}

// in_scale * x of the rows that have one, in place; the slices of numbers from `first` on.
static void scale_inputs(const Chunk& c, int map, bf16* a, i64 first, i64 steps) {
  for (int row = 0; row < c.rows; row++) {
    const float* scale = c.forms[row] ? c.forms[row]->maps[map].in_scale : nullptr;
    if (!scale) continue;
    for (int i = row * c.tokens; i < (row + 1) * c.tokens; i++)
      for (i64 s = 0; s < steps; s++) {
        bf16* p = a + ((i64)(i / 16) * steps + s) * 512 + i % 16 * 32;
        const float* f = scale + (first + s) * 32;
        store_bf16(p, load_bf16(p) * load(f), load_bf16(p + 16) * load(f + 16));
      }
  }
}
