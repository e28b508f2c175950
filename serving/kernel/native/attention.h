// softmax(q k^T / sqrt(head)) v of each row and head that it keeps, a row's keys and values packed once in the second cache.
//
//   keys   [tile of 16 keys][slice of the head][16 pairs of numbers][16 keys][2]       weights of q k^T
//   values [slice of 32 keys][tile of 16 columns][16 pairs of keys][16 columns][2]     weights of p v
#pragma once
#include "activations.h"
#include "kept.h"
#include "shuffle.h"

struct Heads {
  bf16 *keys, *values, *shares;  // shares [2 tiles][slice of 32 keys][16][32]: the softmax, not yet divided by its sum
  float *scores, *out;           // scores [32 queries][keys], out [32 queries][head]
  int tokens, key_slices, key_tiles, slices, wide;
};

// 32 x 32 scores or outputs: `steps` products of tiles that lie as given, stored from `to` on, `width` floats a row.
struct Pair { const bf16 *upper, *lower; long a_stride; i64 a_step; const bf16 *left, *right; i64 w_step; };

template <bool two, bool both>
INLINE void pair_product(const Pair& p, i64 steps, float* to, i64 width) {
  Sums s;
  s.start_zero();
  s.template multiply_pair<two, both>(p.upper, p.lower, p.a_stride, p.a_step, p.left, p.right, p.w_step, steps);
  s.store_upper(to, width * 4);
  if (two) s.store_lower(to + 16 * width, width * 4);
}

static void any_pair(const Pair& p, i64 steps, bool two, bool both, float* to, i64 width) {
  if (two && both) pair_product<true, true>(p, steps, to, width);
  else if (two) pair_product<true, false>(p, steps, to, width);
  else if (both) pair_product<false, true>(p, steps, to, width);
  else pair_product<false, false>(p, steps, to, width);
}

static void pack_head(const Chunk& c, const Heads& h, const bf16* k, const bf16* v, int head) {
  const i64 stride = 3 * c.model->dim;
  for (int t = 0; t < h.key_tiles; t++)
    for (int s = 0; s < h.slices; s++)
      pairs_to_rows(k + (i64)t * 16 * stride + s * 32, stride, h.tokens - t * 16, head - s * 32, h.keys + (t * h.slices + s) * 512);
  for (int s = 0; s < h.key_slices; s++)
    for (int pair = 0; pair < 16; pair++) {
      const int token = s * 32 + pair * 2;
      const bf16* even = token < h.tokens ? v + (i64)token * stride : nullptr;
      const bf16* odd = token + 1 < h.tokens ? v + (i64)(token + 1) * stride : nullptr;
      for (int n = 0; n < h.wide; n += 32)
        interleave(even ? even + n : nullptr, odd ? odd + n : nullptr, head - n, h.values + ((i64)s * (h.wide / 16) + n / 16) * 512 + pair * 32);
    }
}

// The softmax of one query's scores: shares as bf16 before the division; return 1 / their sum.
INLINE float softmax(const float* scores, int keys, int slices, v16 scale, bf16* shares) {
  v16 top = first_lanes(keys - keys / 16 * 16, load(scores + keys / 16 * 16), all(-INFINITY));
  for (int k = 0; k + 16 <= keys; k += 16) top = max(top, load(scores + k));
  const v16 shift = all(-largest(top)) * scale;
  v16 total = all(0.f);
  int k = 0;
  for (; k + 32 <= keys; k += 32, shares += 512) {
    const v16 left = exp2_below_one(mul_add(load(scores + k), scale, shift));
    const v16 right = exp2_below_one(mul_add(load(scores + k + 16), scale, shift));
    total = total + (left + right);
    store_bf16(shares, left, right);
  }
  if (k < slices * 32) {
    const v16 left = first_lanes(keys - k, exp2_below_one(mul_add(load(scores + k), scale, shift)));
    const v16 right = keys - k <= 16 ? all(0.f) : first_lanes(keys - k - 16, exp2_below_one(mul_add(load(scores + k + 16), scale, shift)));
    total = total + (left + right);
    store_bf16(shares, left, right);
  }
  return 1.0f / sum(total);
}

// Write a token's part of a head into tiles of dim.
INLINE void put_head(const float* from, v16 factor, int head, i64 column, bf16* tile_row) {
  if (head % 32 == 0) {
    for (int n = 0; n < head; n += 32)
      store_bf16(tile_row + (column + n) / 32 * 512, load(from + n) * factor, load(from + n + 16) * factor);
    return;
  }
  bf16 part[16];
  for (int n = 0; n < head; n += 16) {
    store_bf16(part, load(from + n) * factor);
    for (int i = 0; i < 16 && n + i < head; i++) tile_row[(column + n + i) / 32 * 512 + (column + n + i) % 32] = part[i];
  }
}

// 32 queries of a head; the tokens after the row's last one are other rows', whose results nobody takes.
static void attend(const Chunk& c, const Heads& h, const bf16* q, int row, int query, int head, i64 column) {
  const i64 stride = 3 * c.model->dim, keys = h.key_slices * 32;
  const int left = h.tokens - query;
  const bf16* lower = q + 16 * stride;
  for (int t = 0; t < h.key_tiles; t += 2) {
    const Pair p = {q, lower, stride * 2, 32, h.keys + t * h.slices * 512, h.keys + (t + 1) * h.slices * 512, 512};
    any_pair(p, h.slices, left > 16, t + 1 < h.key_tiles, h.scores + t * 16, keys);
  }
  float inverse[32];
  const v16 scale = all((float)(c.model->attention_scale * 1.4426950408889634));
  for (int r = 0; r < 32 && r < left; r++)
    inverse[r] = softmax(h.scores + r * keys, h.tokens, h.key_slices, scale, h.shares + (i64)(r / 16) * h.key_slices * 512 + r % 16 * 32);
  for (int n = 0; n < h.wide; n += 32) {
    const Pair p = {h.shares, h.shares + h.key_slices * 512, 64, 512, h.values + n / 16 * 512, h.values + (n / 16 + 1) * 512, h.wide / 16 * 512};
    any_pair(p, h.key_slices, left > 16, true, h.out + n, h.wide);
  }
  for (int r = 0; r < 32 && r < left; r++) {
    const i64 token = c.begin[row] + query + r;
    put_head(h.out + r * h.wide, all(inverse[r]), head, column, c.normed + token / 16 * c.model->dim / 32 * 512 + token % 16 * 32);
  }
}

// The working memory of one row of so many tokens, at most as many as `attention_bytes` counts.
static Heads heads_of(const Chunk& c, int tokens, int head) {
  Heads h;
  h.tokens = tokens;
  h.key_slices = (tokens + 31) / 32, h.key_tiles = (tokens + 15) / 16, h.slices = (head + 31) / 32, h.wide = h.slices * 32;
  h.keys = (bf16*)c.work;
  h.values = h.keys + (i64)h.key_slices * 32 * h.wide;
  h.shares = h.values + (i64)h.key_slices * 32 * h.wide;
  h.scores = (float*)(h.shares + (i64)h.key_slices * 1024);
  h.out = h.scores + (i64)h.key_slices * 1024;
  return h;
}

static void attention(Chunk& c) {
  const Model& m = *c.model;
  const int head = (int)(m.dim / m.heads);
  for (int row = 0; row < c.rows; row++) {
    const Heads h = heads_of(c, tokens_of(c, row), head);
    for (i64 column = 0; column < m.dim; column += head) {
      if (place_at(kept_of(c, row, &Kept::heads), column / head) < 0) continue;
      const bf16* q = c.qkv + (i64)c.begin[row] * 3 * m.dim + column;
      pack_head(c, h, q + m.dim, q + 2 * m.dim, head);
      for (int query = 0; query < h.tokens; query += 32) attend(c, h, q + (i64)query * 3 * m.dim, row, query, head, column);
    }
  }
}
