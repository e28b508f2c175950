// Moves of 16-bit and 32-bit numbers that packing takes.
#pragma once
#include "vec.h"

#ifdef __AVX512F__

// Pairs of numbers of up to 16 rows, `stride` numbers apart, become rows: out [16 pairs][16 rows][2], zero where there
// is no row or, beyond `count` of 32 numbers, no pair.
INLINE void pairs_to_rows(const bf16* in, i64 stride, i64 rows, i64 count, bf16* out) {
  __m512i r[16], t[16];
  const __mmask32 there = count >= 32 ? 0xffffffffu : (1u << count) - 1;
  for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_maskz_loadu_epi16(there, in + i * stride) : _mm512_setzero_si512();
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    _mm512_storeu_si512(out + i * 32, _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88));
    _mm512_storeu_si512(out + (8 + i) * 32, _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd));
    _mm512_storeu_si512(out + (4 + i) * 32, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88));
    _mm512_storeu_si512(out + (12 + i) * 32, _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd));
  }
}

// Up to 32 numbers of two rows, one of each in turn: the first 16 pairs, and 512 numbers later the next. Null is zeros.
INLINE void interleave(const bf16* even, const bf16* odd, int count, bf16* out) {
  const __mmask32 there = count >= 32 ? 0xffffffffu : (1u << count) - 1;
  const __m512i x = even ? _mm512_maskz_loadu_epi16(there, even) : _mm512_setzero_si512();
  const __m512i y = odd ? _mm512_maskz_loadu_epi16(there, odd) : _mm512_setzero_si512();
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(x, low, y));
  _mm512_storeu_si512(out + 512, _mm512_permutex2var_epi16(x, _mm512_add_epi16(low, _mm512_set1_epi16(16)), y));
}

// The first `count` of 16 pairs.
INLINE void store_pairs(bf16* out, const bf16* row, i64 count) {
  _mm512_mask_storeu_epi32(out, count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1), _mm512_loadu_si512(row));
}

#else

INLINE void store_pairs(bf16* out, const bf16* row, i64 count) { memcpy(out, row, (count < 16 ? count : 16) * 4); }
INLINE void pairs_to_rows(const bf16* in, i64 stride, i64 rows, i64 count, bf16* out) {
  for (int k = 0; k < 32; k++)
    for (int i = 0; i < 16; i++) out[k / 2 * 32 + i * 2 + k % 2] = i < rows && k < count ? in[i * stride + k] : 0;
}
INLINE void interleave(const bf16* even, const bf16* odd, int count, bf16* out) {
  for (int i = 0; i < 32; i++) {
    bf16* pair = out + i / 16 * 512 + i % 16 * 2;
    pair[0] = even && i < count ? even[i] : 0;
    pair[1] = odd && i < count ? odd[i] : 0;
  }
}

#endif
