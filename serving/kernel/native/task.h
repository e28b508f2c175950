// A task's arrays, written to their places in one piece of memory straight from where they are: a file, or tensors.
#pragma once
#include <cstdlib>
#include "pack.h"

INLINE uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
INLINE float number_of(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE uint32_t beyond(uint32_t bits) { return (bits & 0x7f800000) == 0x7f800000; }  // infinite or NaN

// The i-th of some numbers as float32 bits; a file's numbers may begin at any byte.
struct OfFloat32 { static INLINE uint32_t bits(const char* from, i64 i) { uint32_t bits; memcpy(&bits, from + 4 * i, 4); return bits; } };
struct OfBf16 { static INLINE uint32_t bits(const char* from, i64 i) { uint16_t upper; memcpy(&upper, from + 2 * i, 2); return (uint32_t)upper << 16; } };
struct OfFloat16 {
  static INLINE uint32_t bits(const char* from, i64 i) {
    const uint32_t first = 113u << 23;  // the smallest number that has an exponent of its own, 2^-14
    uint16_t half;
    memcpy(&half, from + 2 * i, 2);
    const uint32_t sign = (half & 0x8000u) << 16, rest = (half & 0x7fffu) << 13;
    const uint32_t small = bits_of(number_of(rest + first) - number_of(first));
    return sign | (rest < 1u << 23 ? small : rest < 31u << 23 ? rest + (112u << 23) : rest | 0x7f800000u);
  }
};

// scale * number, taken in float32 and rounded to the nearest even, as PyTorch does; return whether all are finite.
template <class Of>
static bool rounded(const char* from, i64 count, float scale, bf16* out) {
  uint32_t bad = 0;
  for (i64 i = 0; i < count; i++) {
    const uint32_t bits = bits_of(number_of(Of::bits(from, i)) * scale);
    const uint32_t near = bits + 0x7fff + (bits >> 16 & 1);
    bad |= beyond(bits) | beyond(near);  // the sum makes a zero of some NaN, and an infinity of the largest numbers
    out[i] = (bf16)(near >> 16);
  }
  return !bad;
}

static bool rounded(const Piece& p, i64 count, bf16* out) {
  const char* from = (const char*)p.from;
  switch (p.numbers) {
    case IN_BF16: return rounded<OfBf16>(from, count, (float)p.scale, out);
    case IN_FLOAT32: return rounded<OfFloat32>(from, count, (float)p.scale, out);
    default: return rounded<OfFloat16>(from, count, (float)p.scale, out);
  }
}

// The numbers as float32, and zeros up to `padded`; return whether all are finite.
template <class Of>
static bool widened(const char* from, i64 count, i64 padded, float* out) {
  uint32_t bad = 0;
  for (i64 i = 0; i < count; i++) {
    const uint32_t bits = Of::bits(from, i);
    bad |= beyond(bits);
    out[i] = number_of(bits);
  }
  for (i64 i = count; i < padded; i++) out[i] = 0.f;
  return !bad;
}

// Write one array; return whether all its numbers are finite. `scratch` has room for them as bf16.
static bool write_piece(const Piece& p, char* to, bf16* scratch) {
  bool finite = true;
  switch (p.kind) {
    case PIECE_A:
      finite = rounded(p, p.rows * p.columns, scratch);
      pack_a(scratch, p.rows, p.columns, (bf16*)to);
      break;
    case PIECE_B:
      finite = rounded(p, p.rows * p.columns, scratch);
      pack_b(scratch, p.columns, p.rows, (bf16*)to);
      break;
    case PIECE_NUMBERS: finite = rounded(p, p.rows, (bf16*)to); break;
    case PIECE_FLOATS: finite = widened<OfFloat32>((const char*)p.from, p.rows, p.columns, (float*)to); break;
    case PIECE_ROUNDED:
      finite = rounded(p, p.rows, scratch);
      widened<OfBf16>((const char*)scratch, p.rows, p.columns, (float*)to);
      break;
    default: memcpy(to, p.from, p.rows * sizeof(i64));
  }
  return finite;
}

// Write all arrays; return the first of them that has a number which is not finite, -1 where none has.
static i64 write_pieces(const Piece* pieces, i64 count, char* memory) {
  i64 most = 0;
  for (i64 i = 0; i < count; i++) {
    const i64 numbers = pieces[i].rows * (pieces[i].kind <= PIECE_B ? pieces[i].columns : 1);
    most = numbers > most ? numbers : most;
  }
  bf16* scratch = (bf16*)malloc(most * sizeof(bf16) + 1);
  if (!scratch) abort();
  i64 bad = -1;
  for (i64 i = 0; i < count && bad < 0; i++)
    if (!write_piece(pieces[i], memory + pieces[i].to, scratch)) bad = i;
  free(scratch);
  return bad;
}
