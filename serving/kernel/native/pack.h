// The layouts that products take, made once for the backbone, and for a task when it is loaded.
#pragma once
#include "shuffle.h"

// weight (out, in) -> [out / 32][in / 32][2][16 pairs][16 columns][2], with zeros up to multiples of 32.
static void pack_weight(const bf16* weight, i64 out, i64 in, bf16* packed) {
  for (i64 panel = 0; panel < (out + 31) / 32; panel++)
    for (i64 slice = 0; slice < (in + 31) / 32; slice++)
      for (int half = 0; half < 2; half++, packed += 512) {
        const i64 row = panel * 32 + half * 16;
        pairs_to_rows(weight + row * in + slice * 32, in, out - row, in - slice * 32, packed);
      }
}

// a (rank, in) -> [in / 2, with zeros up to 16][even ranks][2]
static void pack_a(const bf16* a, i64 rank, i64 in, bf16* packed) {
  const i64 ranks = (rank + 1) & ~(i64)1, whole = (in + 31) / 32 * 32;
  memset(packed, 0, whole * ranks * sizeof(bf16));
  for (i64 r0 = 0; r0 < rank; r0 += 16)
    for (i64 k0 = 0; k0 < in; k0 += 32) {
      bf16 pairs[16][32];
      pairs_to_rows(a + r0 * in + k0, in, rank - r0, in - k0, pairs[0]);
      for (int k = 0; k < 16; k++) store_pairs(packed + ((k0 / 2 + k) * ranks + r0) * 2, pairs[k], ranks - r0);
    }
}

// b (out, rank) -> [out / 16, with zeros up to 32 columns][even ranks / 2][16 columns][2]
static void pack_b(const bf16* b, i64 rank, i64 out, bf16* packed) {
  const i64 pairs = (rank + 1) / 2, whole = (out + 31) / 32 * 32;
  memset(packed, 0, whole * pairs * 2 * sizeof(bf16));
  for (i64 tile = 0; tile * 16 < out; tile++)
    for (i64 p0 = 0; p0 < pairs; p0 += 16) {
      bf16 columns[16][32];
      pairs_to_rows(b + tile * 16 * rank + p0 * 2, rank, out - tile * 16, rank - p0 * 2, columns[0]);
      const i64 written = pairs - p0 < 16 ? pairs - p0 : 16;
      for (int p = 0; p < written; p++) memcpy(packed + ((tile * pairs + p0 + p) * 16) * 2, columns[p], 64);
    }
}
