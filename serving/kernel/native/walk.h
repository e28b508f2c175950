// A chunk's walk: its rows run block after block, and each leaves where its last task does.
#pragma once
#include "block.h"
#include "exit.h"
#include "stem.h"

struct Worker {
  Arena arena;
  Chunk chunk;
  float* features;             // [2][dim]
  const Row** rows;
  const float** images;

  void prepare(const Model& m, int rows_, i64 slices) {
    arena.begin();
    for (int pass = 0; pass < 2; pass++) {
      lay_out(chunk, arena, m, rows_, slices);
      features = arena.template take<float>(2 * m.dim);
      rows = arena.template take<const Row*>(rows_);
      images = arena.template take<const float*>(rows_);
      if (arena.ready()) break;
      arena.end();
      arena.begin();
    }
    chunk.model = &m, chunk.slices = slices;
  }
};

INLINE i64 last_depth(const Row& row) { return row.exits[row.exit_count - 1].depth; }

// The answers of the rows' tasks that leave after `depth` blocks; rows without further tasks leave from the end.
static void leave_all(Worker& w, i64 depth) {
  Chunk& c = w.chunk;
  for (int i = 0; i < c.rows; i++)
    for (i64 e = 0; e < w.rows[i]->exit_count; e++)
      if (w.rows[i]->exits[e].depth == depth) leave(*c.model, c.x + c.begin[i] * c.model->dim, tokens_of(c, i), w.rows[i]->exits[e], w.features);
  int rows = c.rows;
  while (rows && w.rows[rows - 1]->exit_count && last_depth(*w.rows[rows - 1]) <= depth) rows--;
  if (rows < c.rows) set_rows(c, rows);
}

// The tokens that a row has once `block` blocks have run.
INLINE i64 tokens_after(const Model& m, const Row& row, i64 block) {
  const i64 count = row.forms && block ? row.forms[block - 1].tokens.count : 0;
  return count ? count : m.tokens;
}

// Leave out the tokens that the rows do not keep in this block: the others move together, each to an earlier place.
static void leave_out_tokens(Chunk& c) {
  bool some = false;
  for (int row = 0; row < c.rows; row++) some |= c.forms[row] && c.forms[row]->tokens.places;
  if (!some) return;
  const i64 dim = c.model->dim;
  int to = 0;
  for (int row = 0; row < c.rows; row++) {
    const i64* places = c.forms[row] ? c.forms[row]->tokens.places : nullptr;
    const int from = c.begin[row], count = places ? (int)c.forms[row]->tokens.count : tokens_of(c, row);
    c.begin[row] = to;
    for (int i = 0; i < count; i++, to++) {
      const i64 at = from + (places ? places[i] : i);
      if (at != to) memcpy(c.x + to * dim, c.x + at * dim, dim * sizeof(bf16));
    }
  }
  c.begin[c.rows] = to;
  set_rows(c, c.rows);
}

static void walk_chunk(Worker& w, const Walk& walk, int rows) {
  const Model& m = *walk.model;
  Chunk& c = w.chunk;
  const i64 size = m.tokens * m.dim, pixels = 3 * m.grid_height * m.patch_height * m.grid_width * m.patch_width;
  c.begin[0] = 0;
  for (int i = 0; i < rows; i++) c.begin[i + 1] = c.begin[i] + (int)tokens_after(m, *w.rows[i], walk.from);
  set_rows(c, rows);
  if (walk.images) {
    for (int i = 0; i < rows; i++) w.images[i] = walk.images + w.rows[i]->image * pixels;
    stem(c, w.images);
  } else {
    for (int i = 0; i < rows; i++) memcpy(c.x + c.begin[i] * m.dim, walk.x + w.rows[i]->place * size, tokens_of(c, i) * m.dim * sizeof(bf16));
  }
  for (i64 block = walk.from; block < walk.to && c.rows; block++) {
    for (int i = 0; i < c.rows; i++) c.forms[i] = w.rows[i]->forms ? w.rows[i]->forms + block : nullptr;
    leave_out_tokens(c);
    run_block(c, m.block[block]);
    leave_all(w, block + 1);
  }
  for (int i = 0; i < c.rows; i++) memcpy(walk.x + w.rows[i]->place * size, c.x + c.begin[i] * m.dim, tokens_of(c, i) * m.dim * sizeof(bf16));
}

// Chunk `index` of `count`: rows are dealt to and fro, so that chunks have like work, each with its deepest row first.
static void run_chunk(Worker& w, const Walk& walk, int index, int count) {
  const int most = (int)((walk.row_count + count - 1) / count);
  w.prepare(*walk.model, most, walk.slices);
  int rows = 0;
  for (int deal = 0; deal < most; deal++) {
    const int row = deal * count + (deal % 2 ? count - 1 - index : index);
    if (row < walk.row_count) w.rows[rows++] = walk.rows + row;
  }
  walk_chunk(w, walk, rows);
}
