// Heads and units that rows keep: what each square of a chunk needs, where its rows keep some alone.
#pragma once
#include "chunk.h"

INLINE const i64* kept_of(const Chunk& c, int row, Side side) { return c.forms[row] ? c.forms[row]->kept.*side : nullptr; }

// Of `size` panels or slices, those that a row of the square keeps; null where every row of the chunk keeps all.
static const uint8_t* needed_of(const Chunk& c, Side side, i64 size) {
  bool some = false;
  for (int row = 0; row < c.rows; row++) some |= kept_of(c, row, side) != nullptr;
  if (!some) return nullptr;
  for (int q = 0; q * 2 < c.tiles; q++) {
    uint8_t* needed = c.needed + q * size;
    memset(needed, 0, (size_t)size);
    for (int row = c.first[q * 2]; row <= last_row(c, q); row++) {
      const i64* kept = kept_of(c, row, side);
      for (i64 i = 0; i < size; i++) needed[i] |= !kept || kept[i] >= 0;
    }
  }
  return c.needed;
}

// One more than the last that any square needs.
static i64 needed_end(const Chunk& c, const uint8_t* needed, i64 size) {
  i64 end = needed ? 0 : size;
  for (int q = 0; needed && q * 2 < c.tiles; q++)
    for (i64 i = end; i < size; i++)
      if (needed[q * size + i]) end = i + 1;
  return end;
}

// The runs of slices from `first` to `last` that a square needs; return how many.
INLINE int list_runs(const uint8_t* needed, i64 first, i64 last, Run* out) {
  if (!needed) { *out = {first, last}; return 1; }
  int count = 0;
  for (i64 i = first; i < last; i++) {
    if (!needed[i]) continue;
    if (count && out[count - 1].to == i) out[count - 1].to++;
    else out[count++] = {i, i + 1};
  }
  return count;
}

// Zero, of the `steps` slices from `first` on, what a square needs and a row of it leaves out: it adds nothing to the row.
static void clear_left_out(const Chunk& c, Side side, const uint8_t* needed, i64 size, bf16* a, i64 first, i64 steps) {
  if (!needed) return;
  for (int q = 0; q * 2 < c.tiles; q++)
    for (int row = c.first[q * 2]; row <= last_row(c, q); row++) {
      const i64* kept = kept_of(c, row, side);
      if (!kept) continue;
      const int begin = c.begin[row] > q * 32 ? c.begin[row] : q * 32;
      const int end = c.begin[row + 1] < q * 32 + 32 ? c.begin[row + 1] : q * 32 + 32;
      for (i64 s = first; s < first + steps; s++)
        for (int i = begin; i < end && needed[q * size + s] && kept[s] < 0; i++)
          memset(a + ((i64)(i / 16) * steps + s - first) * 512 + i % 16 * 32, 0, 64);
    }
}
