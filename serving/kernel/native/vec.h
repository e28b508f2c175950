// Sixteen floats at a time: AVX512 where the compiler has it, and the same arithmetic in plain loops elsewhere.
#pragma once
#include <cmath>
#include <cstring>
#include "abi.h"
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

#ifdef __AVX512F__

typedef __m512 v16;

INLINE v16 all(float x) { return _mm512_set1_ps(x); }
INLINE v16 load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, v16 x) { _mm512_storeu_ps(p, x); }
INLINE v16 mul_add(v16 x, v16 y, v16 z) { return _mm512_fmadd_ps(x, y, z); }
INLINE v16 min(v16 x, v16 y) { return _mm512_min_ps(x, y); }
INLINE v16 max(v16 x, v16 y) { return _mm512_max_ps(x, y); }
// x, or the limit with the sign of x where that is nearer to 0.
INLINE v16 within(v16 x, v16 limit) { return _mm512_range_ps(x, limit, 2); }
// x - floor(x), and x times two to the power of floor(n).
INLINE v16 above_floor(v16 x) { return _mm512_reduce_ps(x, 9); }
INLINE v16 times_power_of_two(v16 x, v16 n) { return _mm512_scalef_ps(x, n); }
INLINE float sum(v16 x) { return _mm512_reduce_add_ps(x); }
INLINE float largest(v16 x) { return _mm512_reduce_max_ps(x); }
// The first `count` lanes of x; those after them are 0, or y, whatever x has there.
INLINE __mmask16 lanes(int count) { return count >= 16 ? 0xffff : (1u << (count < 0 ? 0 : count)) - 1; }
INLINE v16 first_lanes(int count, v16 x) { return _mm512_maskz_mov_ps(lanes(count), x); }
INLINE v16 first_lanes(int count, v16 x, v16 y) { return _mm512_mask_mov_ps(y, lanes(count), x); }
// 16, or 32 floats, each rounded to the nearest bf16, ties to even.
INLINE void store_bf16(bf16* p, v16 x) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }
INLINE void store_bf16(bf16* p, v16 x, v16 y) { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(y, x)); }
INLINE v16 load_bf16(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

#else

typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));

INLINE v16 all(float x) { return x - v16{}; }
INLINE v16 load(const float* p) { v16 x; memcpy(&x, p, 64); return x; }
INLINE void store(float* p, v16 x) { memcpy(p, &x, 64); }
#ifdef __FMA__
INLINE v16 mul_add(v16 x, v16 y, v16 z) { for (int i = 0; i < 16; i++) x[i] = __builtin_fmaf(x[i], y[i], z[i]); return x; }
#else
INLINE v16 mul_add(v16 x, v16 y, v16 z) { return x * y + z; }
#endif
INLINE v16 min(v16 x, v16 y) { return x < y ? x : y; }
INLINE v16 max(v16 x, v16 y) { return x > y ? x : y; }
INLINE v16 within(v16 x, v16 limit) { return min(max(x, -limit), limit); }
INLINE v16 above_floor(v16 x) { for (int i = 0; i < 16; i++) x[i] -= std::floor(x[i]); return x; }
INLINE v16 times_power_of_two(v16 x, v16 n) { for (int i = 0; i < 16; i++) x[i] = std::ldexp(x[i], (int)std::floor(n[i])); return x; }
INLINE float sum(v16 x) {  // in the order of AVX512's reduction: halves
  for (int half = 8; half; half /= 2) for (int i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
INLINE float largest(v16 x) { float top = x[0]; for (int i = 1; i < 16; i++) top = x[i] > top ? x[i] : top; return top; }
INLINE v16 first_lanes(int count, v16 x, v16 y) { for (int i = count < 0 ? 0 : count; i < 16; i++) x[i] = y[i]; return x; }
INLINE v16 first_lanes(int count, v16 x) { return first_lanes(count, x, v16{}); }
INLINE bf16 rounded(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bf16)(bits >> 16 | 0x40);  // a NaN stays one
  return (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE void store_bf16(bf16* p, v16 x) { for (int i = 0; i < 16; i++) p[i] = rounded(x[i]); }
INLINE void store_bf16(bf16* p, v16 x, v16 y) { store_bf16(p, x); store_bf16(p + 16, y); }
INLINE v16 load_bf16(const bf16* p) {
  i32x16 bits;
  for (int i = 0; i < 16; i++) bits[i] = (int32_t)((uint32_t)p[i] << 16);
  return (v16)bits;
}

#endif
