// What tasks add to a linear map: x A^T of each row by its own task, and the terms that a product adds to its squares.
#pragma once
#include "chunk.h"

INLINE i64 slices_of(i64 rank) { return (rank + 31) / 32; }
INLINE i64 even(i64 rank) { return (rank + 1) & ~(i64)1; }

// A task's factor, packed [pairs of numbers][even ranks][2], and the slices of numbers that are there of all.
// `kept`: where the sums of a part wait for the next, by `place`; null where all slices are there.
struct Factor { const bf16* a; i64 rank, first, last, all; float* kept; };

// A factor that is needed soon: its lines come into the second cache meanwhile, some at each step.
struct Ahead {
  const char *at, *end;
  i64 lines;
  INLINE void operator()() { for (i64 i = 0; i < lines && at < end; i++, at += 64) __builtin_prefetch(at, 0, 2); }
};

template <int tiles>
static void factor_tiles(const Factor& f, const bf16* tokens, int half, float* const* to, Ahead& ahead) {
  const i64 steps = f.last - f.first, stride = even(f.rank) * 4;
  Ranks<tiles> ranks;
  ranks.start(f.first ? to : nullptr);
  ranks.multiply(tokens, steps * 512, f.a + f.first * 8 * stride + half * 32, stride, steps, ahead);
  ranks.store(to);
}

// `take(tile, half, 16 tokens x 16 ranks)` gets x A^T of all tiles that a row touches, other rows' tokens too.
template <class Take>
INLINE void lower_row(const Chunk& c, int row, const bf16* a, const Factor& f, Ahead& ahead, Take&& take) {
  alignas(64) float sums[MOST_RANK_TILES][256];
  const int from = row * c.tokens / 16, to = ((row + 1) * c.tokens - 1) / 16 + 1;
  for (int half = 0; half * 16 < f.rank; half++)
    for (int t = from; t < to; t += MOST_RANK_TILES) {
      const int tiles = to - t < MOST_RANK_TILES ? to - t : MOST_RANK_TILES;
      float* at[MOST_RANK_TILES];
      for (int i = 0; i < tiles; i++) at[i] = f.kept ? f.kept + place(c, t + i, row) + half * 256 : sums[i];
      const bf16* tokens = a + t * (f.last - f.first) * 512;
      switch (tiles) {
        case 1: factor_tiles<1>(f, tokens, half, at, ahead); break;
        case 2: factor_tiles<2>(f, tokens, half, at, ahead); break;
        case 3: factor_tiles<3>(f, tokens, half, at, ahead); break;
        case 4: factor_tiles<4>(f, tokens, half, at, ahead); break;
        default: factor_tiles<5>(f, tokens, half, at, ahead);
      }
      for (int i = 0; i < tiles && f.last == f.all; i++) take(t + i, half, at[i]);
    }
}

INLINE const Delta* delta_of(const Chunk& c, int row, int map) {
  const Delta* delta = row < c.rows && c.forms[row] ? &c.forms[row]->maps[map] : nullptr;
  return delta && delta->rank ? delta : nullptr;
}

// x A^T of all rows that have one, as bf16; zero in other rows' tokens and beyond the rank, whatever is there.
static void lower(const Chunk& c, int map, const bf16* a, i64 first, i64 last, i64 all_, bf16* low) {
  float* kept = first || last < all_ ? c.low_sums : nullptr;
  for (int row = 0; row < c.rows; row++) {
    const Delta* delta = delta_of(c, row, map);
    if (!delta) continue;
    const int begin = row * c.tokens, end = begin + c.tokens;
    Ahead ahead = {nullptr, nullptr, 0};
    if (const Delta* next = delta_of(c, row + 1, map)) {
      const bf16* from = next->a + first * 32 * even(next->rank);
      ahead = {(const char*)from, (const char*)(from + (last - first) * 32 * even(next->rank)), even(next->rank)};
    }
    lower_row(c, row, a, Factor{delta->a, delta->rank, first, last, all_, kept}, ahead, [&](int t, int half, const float* sums) {
      bf16* out = low + place(c, t, row) + half / 2 * 512 + half % 2 * 16;
      const int left = (int)(delta->rank - half * 16);
      for (int r = 0; r < 16; r++, out += 32, sums += 16) {
        const bool own = t * 16 + r >= begin && t * 16 + r < end;
        const v16 ranks = first_lanes(own ? left : 0, load(sums));
        if (half % 2) store_bf16(out, ranks); else store_bf16(out, ranks, all(0.f));
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
  return {&map, a, c.tiles, c.count, c.squares, c.token_forms, c.row_of, 0, (int)(map.out / 32), 0, map.in / 32, nullptr, c.part};
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
