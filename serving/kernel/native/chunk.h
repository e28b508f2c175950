// Some rows on their way through the blocks together: their memory, and which tile holds tokens of which row.
#pragma once
#include "memory.h"
#include "product.h"

struct Chunk {
  const Model* model;
  i64 slices;                // of 32 ranks, at most
  int rows, count, tiles;    // now: rows, their tokens, their tiles of 16 tokens
  int* begin;                // of each row: its first token; after the last row's, the end
  const Forms** forms;       // of each row, in this block; null: the backbone alone
  int *first, *last, *slot;  // of each tile: the rows that it touches, and the place of the first of them in `low`
  int16_t* row_of;           // of each token

  bf16 *x;                   // [token][dim], the residual
  bf16 *normed;              // tiles of dim: what a norm gives, and later what attention gives
  bf16 *qkv;                 // [token][3 dim]
  bf16 *hidden;              // tiles of one part of the MLP's hidden layer
  bf16 *branch;              // tiles of dim: x, or what a branch adds, where a bottleneck takes it
  float *sums;               // of fc2, until all parts of the hidden layer are there
  float *part;               // of one panel, until all parts of its numbers are there
  bf16 *low, *low2;          // [slot][slice][16][32]: x A^T, of one map
  float *low_sums;           // of fc2's
  bf16 *beside;              // the same of a bottleneck's hidden numbers
  float *grid;               // [2][token][width]: of one row's convolution
  Square* squares;
  TokenForms* token_forms;   // of each row
  Term* terms;
  uint8_t* needed;           // [square][panel or slice]: what its rows keep, of one map
  Run* runs;                 // of each square, the neighbours among them
  char* work;                // of attention
};

const int HIDDEN_PART = 1024;  // columns of the hidden layer at a time, at most: they stay in the second cache

inline i64 hidden_part(const Model& m) {
  const i64 parts = (m.hidden + HIDDEN_PART - 1) / HIDDEN_PART;
  return ((m.hidden + parts - 1) / parts + 31) / 32 * 32;
}

inline size_t attention_bytes(const Model& m) {
  const i64 head = m.dim / m.heads, wide = (head + 31) / 32 * 32, keys = (m.tokens + 31) / 32 * 32;
  return (size_t)(2 * keys * wide * 2 + 32 * keys * 2 + 32 * keys * 4 + 32 * wide * 4);
}

inline void lay_out(Chunk& c, Arena& arena, const Model& m, int rows, i64 slices) {
  const i64 count = (i64)rows * m.tokens, tiles = (count + 15) / 16 + 1, padded = (tiles + 1) * 16;
  const i64 slots = (tiles + rows) * slices, patch = m.patch.in > m.dim ? m.patch.in : m.dim;
  c.forms = arena.take<const Forms*>(rows);
  c.first = arena.take<int>(tiles), c.last = arena.take<int>(tiles), c.slot = arena.take<int>(tiles);
  c.row_of = arena.take<int16_t>(padded);
  c.begin = arena.take<int>(rows + 1);
  c.x = arena.take<bf16>(padded * m.dim);
  c.normed = arena.take<bf16>(padded * patch);
  c.qkv = arena.take<bf16>(padded * 3 * m.dim);
  c.hidden = arena.take<bf16>(padded * hidden_part(m));
  c.branch = arena.take<bf16>(padded * m.dim);
  c.sums = m.hidden > HIDDEN_PART ? arena.take<float>(padded * m.dim + 1024 * (m.dim / 32)) : nullptr;
  c.part = arena.take<float>((tiles / 2 + 1) * 1024);
  c.low = arena.take<bf16>(slots * 512), c.low2 = arena.take<bf16>(slots * 512);
  c.low_sums = arena.take<float>(slots * 512);
  c.beside = arena.take<bf16>(slots * 512);
  c.grid = arena.take<float>(2 * m.tokens * slices * 32);
  c.squares = arena.take<Square>(tiles / 2 + 1);
  c.token_forms = arena.take<TokenForms>(rows);
  c.terms = arena.take<Term>((tiles + rows) * slices);
  const i64 most = (m.hidden > 3 * m.dim ? m.hidden : 3 * m.dim) / 32;
  c.needed = arena.take<uint8_t>((tiles / 2 + 1) * most);
  c.runs = arena.take<Run>((tiles / 2 + 1) * (most / 2 + 1));
  c.work = arena.take<char>(attention_bytes(m));
}

inline int tokens_of(const Chunk& c, int row) { return c.begin[row + 1] - c.begin[row]; }

// Go on with the first rows, of which `begin` says the tokens. Rows leave from the end, so what is here about the tiles
// of the others stays true but for the last one.
inline void set_rows(Chunk& c, int rows) {
  c.rows = rows;
  c.count = c.begin[rows];
  c.tiles = (c.count + 15) / 16;
  for (int row = 0; row < rows; row++)
    for (int i = c.begin[row]; i < c.begin[row + 1]; i++) c.row_of[i] = (int16_t)row;
  for (int t = 0, slot = 0; t < c.tiles; t++) {
    const int end = t * 16 + 15 < c.count ? t * 16 + 15 : c.count - 1;
    c.first[t] = c.row_of[t * 16], c.last[t] = c.row_of[end], c.slot[t] = slot;
    slot += c.last[t] - c.first[t] + 1;
  }
}

inline int last_row(const Chunk& c, int square) { return square * 2 + 1 < c.tiles ? c.last[square * 2 + 1] : c.last[square * 2]; }

inline i64 place(const Chunk& c, int tile, int row) { return (i64)(c.slot[tile] + row - c.first[tile]) * c.slices * 512; }
