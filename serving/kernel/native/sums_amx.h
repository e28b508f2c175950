// Sums of 32 tokens x 32 columns in AMX's tile registers.
//
//   tile 0 | tile 1     tokens  0 to 15, columns 0 to 15 | 16 to 31
//   tile 2 | tile 3     tokens 16 to 31
//
// Tiles 4 and 5 take 16 tokens x 32 numbers of the activations, 6 and 7 take 32 numbers x 16 columns of the weights.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "vec.h"

// Every tile has 16 rows of 64 bytes: the whole register. A thread sets this once for each walk.
struct __attribute__((packed)) TileShapes { uint8_t palette, start, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; };

INLINE void begin_tiles() {
  const int request_permission = 0x1023, tile_data = 18;  // of the kernel, once for the process; again costs nothing
  syscall(SYS_arch_prctl, request_permission, tile_data);
  TileShapes shapes = {};
  shapes.palette = 1;
  for (int i = 0; i < 8; i++) { shapes.row_bytes[i] = 64; shapes.rows[i] = 16; }
  _tile_loadconfig(&shapes);
}
INLINE void end_tiles() { _tile_release(); }

struct Sums {
  // Start two tiles of tokens from rows of 32 floats, `stride` bytes apart; stride 0 starts all tokens from one row.
  INLINE void start_upper(const float* rows, long stride) { _tile_loadd(0, rows, stride); _tile_loadd(1, rows + 16, stride); }
  INLINE void start_lower(const float* rows, long stride) { _tile_loadd(2, rows, stride); _tile_loadd(3, rows + 16, stride); }
  INLINE void start_zero() { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }

  // Add `steps` products of 32 numbers each, and call `between` meanwhile: what it does on the core's vector units costs
  // less while the matrix unit works. Much work does best after every tile product (`often`), little after every step.
  // Weights stay in the first cache for the next tokens where `keep_weights`, activations where not.
  template <bool two, bool keep_weights, bool often, class Between>
  INLINE void multiply(const bf16* upper, const bf16* lower, const bf16* weight, i64 steps, Between&& between) {
    for (i64 s = 0; s < steps; s++, upper += 512, lower += 512, weight += 1024) {
      if (keep_weights) _tile_stream_loadd(4, upper, 64); else _tile_loadd(4, upper, 64);
      if (keep_weights) _tile_loadd(6, weight, 64); else _tile_stream_loadd(6, weight, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (often) between();
      if (keep_weights) _tile_loadd(7, weight + 512, 64); else _tile_stream_loadd(7, weight + 512, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (often) between();
      if (two) {
        if (keep_weights) _tile_stream_loadd(5, lower, 64); else _tile_loadd(5, lower, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (often) between();
        _tile_dpbf16ps(3, 5, 7);
      }
      between();
    }
  }

  // Add products of tiles that lie anywhere: rows of activations `stride` bytes apart, steps `a_step`, `w_step` numbers.
  template <bool two, bool both>
  INLINE void multiply_pair(const bf16* upper, const bf16* lower, long stride, i64 a_step, const bf16* left, const bf16* right, i64 w_step, i64 steps) {
    for (i64 s = 0; s < steps; s++, upper += a_step, lower += a_step, left += w_step, right += w_step) {
      _tile_loadd(4, upper, stride);
      _tile_loadd(6, left, 64);
      if (both) _tile_loadd(7, right, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (both) _tile_dpbf16ps(1, 4, 7);
      if (two) { _tile_loadd(5, lower, stride); _tile_dpbf16ps(2, 5, 6); }
      if (two && both) _tile_dpbf16ps(3, 5, 7);
    }
  }

  // Add one product of 32 numbers to the tiles of tokens that are given; the weight's halves lie apart.
  INLINE void add(const bf16* upper, const bf16* lower, const bf16* left, const bf16* right) {
    _tile_loadd(6, left, 64);
    _tile_loadd(7, right, 64);
    if (upper) { _tile_loadd(4, upper, 64); _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); }
    if (lower) { _tile_loadd(5, lower, 64); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); }
  }

  INLINE void store_upper(float* rows, long stride) { _tile_stored(0, rows, stride); _tile_stored(1, rows + 16, stride); }
  INLINE void store_lower(float* rows, long stride) { _tile_stored(2, rows, stride); _tile_stored(3, rows + 16, stride); }
};

const int MOST_RANK_TILES = 5;

// Sums of up to five tiles of 16 tokens x 16 ranks, in tiles 0 to 4: enough that none waits for its last product.
template <int tiles>
struct Ranks {
  INLINE void start(float* const* from) {
    if (!from) { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); return; }
    _tile_loadd(0, from[0], 64);
    if (tiles > 1) _tile_loadd(1, from[1], 64);
    if (tiles > 2) _tile_loadd(2, from[2], 64);
    if (tiles > 3) _tile_loadd(3, from[3], 64);
    if (tiles > 4) _tile_loadd(4, from[4], 64);
  }

  // Add the products of tiles of tokens, `tile` numbers apart, with a task's factor [pairs of numbers][ranks][2], whose
  // pairs are `stride` bytes apart.
  template <class Between>
  INLINE void multiply(const bf16* tokens, i64 tile, const bf16* factor, long stride, i64 steps, Between&& between) {
    for (i64 s = 0; s < steps; s++, tokens += 512, factor += 8 * stride) {
      _tile_loadd(7, factor, stride);
      _tile_loadd(5, tokens, 64);
      _tile_dpbf16ps(0, 5, 7);
      if (tiles > 1) { _tile_loadd(6, tokens + tile, 64); _tile_dpbf16ps(1, 6, 7); }
      if (tiles > 2) { _tile_loadd(5, tokens + 2 * tile, 64); _tile_dpbf16ps(2, 5, 7); }
      if (tiles > 3) { _tile_loadd(6, tokens + 3 * tile, 64); _tile_dpbf16ps(3, 6, 7); }
      if (tiles > 4) { _tile_loadd(5, tokens + 4 * tile, 64); _tile_dpbf16ps(4, 5, 7); }
      between();
    }
  }

  INLINE void store(float* const* to) {
    _tile_stored(0, to[0], 64);
    if (tiles > 1) _tile_stored(1, to[1], 64);
    if (tiles > 2) _tile_stored(2, to[2], 64);
    if (tiles > 3) _tile_stored(3, to[3], 64);
    if (tiles > 4) _tile_stored(4, to[4], 64);
  }
};
