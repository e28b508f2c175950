// What tasks add to a linear map: x A^T of each row by its own task, and the terms that a product adds to its squares.
#pragma once
#include "kept.h"

INLINE i64 slices_of(i64 rank) { return (rank + 31) / 32; }
INLINE i64 even(i64 rank) { return (rank + 1) & ~(i64)1; }

// A task's factor, packed [pairs of numbers][even ranks][2], and the slices of numbers that are there of all.
// `kept`: where the sums of a part wait for the next, by `place`; null where all slices are there. `at`: the place of
// each slice in the factor, -1 where the task leaves it out; null: as it is.
struct Factor { const bf16* a; i64 rank, first, last, all; float* kept; const i64* at; i64 width; };

// The next slice that is kept, from this one on, and the end of its neighbours.
INLINE i64 run_begin(const i64* at, i64 from, i64 last) { while (at && from < last && at[from] < 0) from++; return from; }
INLINE i64 run_end(const i64* at, i64 from, i64 last) {
  if (!at) return last;
  while (from < last && at[from] >= 0) from++;
  return from;
}

// A factor that is needed soon: its lines come into the second cache meanwhile, some at each step.
struct Ahead {
  const char *at, *end;
  i64 lines;
  INLINE void operator()() { for (i64 i = 0; i < lines && at < end; i++, at += 64) __builtin_prefetch(at, 0, 2); }
};

template <int tiles>
static void factor_tiles(const Factor& f, const bf16* tokens, int half, float* const* to, Ahead& ahead) {
  const i64 stride = even(f.rank) * 4;
  Ranks<tiles> ranks;
  ranks.start(f.first ? to : nullptr);
  for (i64 s = run_begin(f.at, f.first, f.last), end; s < f.last; s = run_begin(f.at, end, f.last)) {
    end = run_end(f.at, s, f.last);
    ranks.multiply(tokens + (s - f.first) * 512, f.width * 512, f.a + place_at(f.at, s) * 8 * stride + half * 32, stride, end - s, ahead);
  }
  ranks.store(to);
}

// `take(tile, half, 16 tokens x 16 ranks)` gets x A^T of all tiles that a row touches, other rows' tokens too.
template <class Take>
INLINE void lower_row(const Chunk& c, int row, const bf16* a, const Factor& f, Ahead& ahead, Take&& take) {
  alignas(64) float sums[MOST_RANK_TILES][256];
  const int from = c.begin[row] / 16, to = (c.begin[row + 1] - 1) / 16 + 1;
  for (int half = 0; half * 16 < f.rank; half++)
    for (int t = from; t < to; t += MOST_RANK_TILES) {
      const int tiles = to - t < MOST_RANK_TILES ? to - t : MOST_RANK_TILES;
      float* at[MOST_RANK_TILES];
      for (int i = 0; i < tiles; i++) at[i] = f.kept ? f.kept + place(c, t + i, row) + half * 256 : sums[i];
      const bf16* tokens = a + t * f.width * 512;
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

// What a row keeps of a map's outputs, and of its inputs; null: all.
INLINE const i64* outputs_of(const Chunk& c, int row, int map) {
  return map == QKV ? kept_of(c, row, &Kept::qkv) : map == FC1 ? kept_of(c, row, &Kept::hidden) : nullptr;
}
INLINE const i64* inputs_of(const Chunk& c, int row, int map) {
  return map == PROJ ? kept_of(c, row, &Kept::proj) : map == FC2 ? kept_of(c, row, &Kept::hidden) : nullptr;
}

// x A^T of all rows that have one, as bf16; zero in other rows' tokens and beyond the rank, whatever is there. `a` has
// `width` slices of each tile of tokens.
static void lower(const Chunk& c, int map, const bf16* a, i64 width, i64 first, i64 last, i64 all_, bf16* low) {
  float* kept = first || last < all_ ? c.low_sums : nullptr;
  for (int row = 0; row < c.rows; row++) {
    const Delta* delta = delta_of(c, row, map);
    if (!delta) continue;
    const int begin = c.begin[row], end = c.begin[row + 1];
    Ahead ahead = {nullptr, nullptr, 0};
    if (const Delta* next = delta_of(c, row + 1, map)) {
      const i64* at = inputs_of(c, row + 1, map);
      const i64 from = run_begin(at, first, last), to = run_end(at, from, last);
      const bf16* soon = next->a + (from < to ? place_at(at, from) : 0) * 32 * even(next->rank);
      ahead = {(const char*)soon, (const char*)(soon + (to - from) * 32 * even(next->rank)), even(next->rank)};
    }
    lower_row(c, row, a, Factor{delta->a, delta->rank, first, last, all_, kept, inputs_of(c, row, map), width}, ahead, [&](int t, int half, const float* sums) {
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
  for (int row = c.first[upper]; row <= last_row(c, upper / 2); row++) {
    const Delta* delta = c.forms[row] ? &c.forms[row]->maps[map] : nullptr;
    if (!delta) continue;
    const bool in_upper = row <= c.last[upper], in_lower = two && row >= c.first[upper + 1];
    for (int slice = 0; slice < slices_of(delta->rank); slice++)
      out[count++] = {in_upper ? low + place(c, upper, row) + slice * 512 : nullptr,
                      in_lower ? low + place(c, upper + 1, row) + slice * 512 : nullptr,
                      delta->b + slice * 512, even(delta->rank) * 16, outputs_of(c, row, map)};
  }
  return count;
}

// What the rows' tasks change in a map, as its product takes it; `low` is x A^T. `needed`: of qkv's and fc1's outputs, or
// of proj's and fc2's inputs, which squares need; these inputs are the slices `first` to `last` of all.
static Operands with_tasks(Chunk& c, int index, const Linear& map, const bf16* a, const bf16* low, const uint8_t* needed, i64 first, i64 last, i64 all_) {
  const bool of_inputs = index == PROJ || index == FC2;
  for (int row = 0; row < c.rows; row++) {
    const Delta* delta = c.forms[row] ? &c.forms[row]->maps[index] : nullptr;
    const float* bias = delta && delta->bias ? delta->bias : map.bias;
    const i64* at = delta && delta->bias ? outputs_of(c, row, index) : nullptr;
    if (delta && delta->out_scale) c.token_forms[row] = {delta->out_scale, bias, nullptr, at};
    else c.token_forms[row] = {nullptr, nullptr, bias, at};
  }
  Term* terms = c.terms;
  Run* runs = c.runs;
  for (int q = 0; q * 2 < c.tiles; q++) {
    const bool two = q * 2 + 1 < c.tiles;
    const int end = last_row(c, q), run_count = list_runs(of_inputs && needed ? needed + q * (map.in / 32) : nullptr, first, last, runs);
    Square square = {terms, list_terms(c, index, low, q * 2, two, terms), true, false, runs, run_count};
    for (int row = c.first[q * 2]; row <= end; row++) {
      square.uniform &= c.token_forms[row].bias == c.token_forms[end].bias && c.token_forms[row].at == c.token_forms[end].at;
      square.scaled |= c.token_forms[row].scale != nullptr;
    }
    terms += square.term_count;
    runs += run_count;
    c.squares[q] = square;
  }
  const i64 width = index == FC2 ? last - first : map.in / 32;
  return {&map, a, width, c.tiles, c.count, c.squares, c.token_forms, c.row_of, 0, (int)(map.out / 32), first, last, all_, of_inputs ? nullptr : needed, nullptr, c.part};
}

INLINE bool all_ones(const float* scale) {
  int others = 0;
  for (int i = 0; i < 32; i++) others += scale[i] != 1.f;
  return !others;
}

// in_scale * x of the rows that have one, in place; the slices of numbers from `first` on.
static void scale_inputs(const Chunk& c, int map, bf16* a, i64 first, i64 steps) {
  for (int row = 0; row < c.rows; row++) {
    const float* scale = c.forms[row] ? c.forms[row]->maps[map].in_scale : nullptr;
    if (!scale) continue;
    const i64* at = inputs_of(c, row, map);
    for (i64 s = 0; s < steps; s++) {
      const i64 own = place_at(at, first + s);
      if (own < 0 || all_ones(scale + own * 32)) continue;
      const v16 left = load(scale + own * 32), right = load(scale + own * 32 + 16);
      for (int i = c.begin[row]; i < c.begin[row + 1]; i++) {
        bf16* p = a + ((i64)(i / 16) * steps + s) * 512 + i % 16 * 32;
        store_bf16(p, load_bf16(p) * left, load_bf16(p + 16) * right);
      }
    }
  }
}
