// The same sums in memory, for CPUs without AMX and as its twin: AVX512-BF16 where the compiler has it, else plain loops.
#pragma once
#include "vec.h"

INLINE void begin_tiles() {}
INLINE void end_tiles() {}

#ifdef __AVX512BF16__
// sums[8 tokens][32 columns] += 32 numbers of each token, `step` apart, times weights [16 pairs][columns][2].
INLINE void add_products(float* sums, const bf16* a, long a_row, const bf16* left, const bf16* right, long pair_step) {
  __m512 c[8][2];
  for (int r = 0; r < 8; r++) { c[r][0] = load(sums + r * 32); c[r][1] = load(sums + r * 32 + 16); }
  for (int k = 0; k < 16; k++, left += pair_step, right += pair_step) {
    const __m512bh u = (__m512bh)_mm512_loadu_si512(left), v = (__m512bh)_mm512_loadu_si512(right);
#pragma GCC unroll 8
    for (int r = 0; r < 8; r++) {
      int pair;
      memcpy(&pair, a + r * a_row + 2 * k, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      c[r][0] = _mm512_dpbf16_ps(c[r][0], x, u);
      c[r][1] = _mm512_dpbf16_ps(c[r][1], x, v);
    }
  }
  for (int r = 0; r < 8; r++) { store(sums + r * 32, c[r][0]); store(sums + r * 32 + 16, c[r][1]); }
}
#else
INLINE void add_products(float* sums, const bf16* a, long a_row, const bf16* left, const bf16* right, long pair_step) {
  auto number = [](bf16 x) { uint32_t bits = (uint32_t)x << 16; float y; memcpy(&y, &bits, 4); return y; };
  for (int r = 0; r < 8; r++)
    for (int k = 0; k < 16; k++)
      for (int e = 0; e < 2; e++) {
        const float x = number(a[r * a_row + 2 * k + e]);
        for (int c = 0; c < 16; c++) {
          sums[r * 32 + c] += x * number(left[k * pair_step + 2 * c + e]);
          sums[r * 32 + 16 + c] += x * number(right[k * pair_step + 2 * c + e]);
        }
      }
}
#endif

struct Sums {
  alignas(64) float c[32][32];

  static void copy(float (*to)[32], const float* rows, long stride) {
    for (int r = 0; r < 16; r++) memcpy(to[r], (const char*)rows + r * stride, 128);
  }
  void start_upper(const float* rows, long stride) { copy(c, rows, stride); }
  void start_lower(const float* rows, long stride) { copy(c + 16, rows, stride); }
  void start_zero() { memset(c, 0, sizeof c); }

  template <bool two, bool keep_weights, bool often, class Between>
  void multiply(const bf16* upper, const bf16* lower, const bf16* weight, i64 steps, Between&& between) {
    for (int half = 0; half < (two ? 4 : 2); half++)
      for (i64 s = 0; s < steps; s++)
        add_products(c[half * 8], (half < 2 ? upper + half * 256 : lower + (half - 2) * 256) + s * 512, 32, weight + s * 1024, weight + s * 1024 + 512, 32);
    for (i64 s = 0; s < steps; s++) between();
  }

  template <bool two, bool both>
  void multiply_pair(const bf16* upper, const bf16* lower, long stride, i64 a_step, const bf16* left, const bf16* right, i64 w_step, i64 steps) {
    const long row = stride / 2;
    for (int half = 0; half < (two ? 4 : 2); half++)
      for (i64 s = 0; s < steps; s++)
        add_products(c[half * 8], (half < 2 ? upper + half * 8 * row : lower + (half - 2) * 8 * row) + s * a_step, row, left + s * w_step, (both ? right : left) + s * w_step, 32);
  }

  void add(const bf16* upper, const bf16* lower, const bf16* left, const bf16* right) {
    for (int half = 0; half < 2; half++) {
      if (upper) add_products(c[half * 8], upper + half * 256, 32, left, right, 32);
      if (lower) add_products(c[16 + half * 8], lower + half * 256, 32, left, right, 32);
    }
  }

  void store_upper(float* rows, long stride) { for (int r = 0; r < 16; r++) memcpy((char*)rows + r * stride, c[r], 128); }
  void store_lower(float* rows, long stride) { for (int r = 0; r < 16; r++) memcpy((char*)rows + r * stride, c[16 + r], 128); }
};

const int MOST_RANK_TILES = 5;

// Sums of up to five tiles of 16 tokens x 16 ranks; 32 columns are summed, of which the second half is not looked at.
template <int tiles>
struct Ranks {
  alignas(64) float c[tiles][16][32] = {};

  void start(float* const* from) {
    for (int i = 0; from && i < tiles; i++)
      for (int r = 0; r < 16; r++) memcpy(c[i][r], from[i] + r * 16, 64);
  }
  template <class Between>
  void multiply(const bf16* tokens, i64 tile, const bf16* factor, long stride, i64 steps, Between&& between) {
    for (i64 s = 0; s < steps; s++, tokens += 512, factor += 8 * stride, between())
      for (int half = 0; half < tiles * 2; half++)
        add_products(c[half / 2][half % 2 * 8], tokens + half / 2 * tile + half % 2 * 256, 32, factor, factor, stride / 2);
  }
  void store(float* const* to) {
    for (int i = 0; i < tiles; i++)
      for (int r = 0; r < 16; r++) memcpy(to[i] + r * 16, c[i][r], 64);
  }
};
