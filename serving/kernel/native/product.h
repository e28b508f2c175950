// y = W x of many tokens, with what each row's task adds, in one pass over y.
//
// Activations: [tile of 16 tokens][slice of 32 numbers][16][32]; "numbers" are the inputs that a product sums over.
// Weights:     [panel of 32 columns][slice of 32 numbers][2 halves][16 pairs of numbers][16 columns][2].
// A square is 32 tokens x 32 columns: two tiles of tokens, one panel.
#pragma once
#ifdef ONETRUNK_AMX
#include "sums_amx.h"
#else
#include "sums_vector.h"
#endif

// One product of 32 ranks that a task adds to a square; null where no token of that tile is the task's.
struct Term { const bf16 *upper, *lower, *factor; i64 half; };  // of panel p: factor + 2 p half, and half behind it

// What a row's sums get: scale * sums + shift before the terms, and bias after them; null where there is nothing.
struct TokenForms { const float *scale, *shift, *bias; };

// What a square of tokens adds to the base product: the same for all panels.
struct Square { const Term* terms; int term_count; bool uniform, scaled; };

struct Operands {
  const Linear* map;
  const bf16* a;               // the tokens, of the slices `first` to `last` alone
  int tiles, tokens;
  const Square* squares;       // of 32 tokens each
  const TokenForms* forms;     // of each row
  const int16_t* row_of;       // of each token
  int from, to;                // panels
  i64 first, last;             // slices of numbers
  float* kept;                 // [panel][square][32][32]: sums that wait for further slices, null where all are there
};

static const float NOTHING[32] = {};

// Sums of a finished square wait here, and are taken a few rows at a time between the next square's steps.
template <class Take>
struct Waiting {
  Take* take;
  const Operands* o;
  const float* sums;
  int panel, token, row, end;
  bool uniform;

  INLINE void some(int count) {
    const int stop = row + count < end ? row + count : end;
    const float* bias = bias_of(token);
    v16 left = load(bias), right = load(bias + 16);
    for (; row < stop; row++) {
      if (!uniform) { bias = bias_of(token + row); left = load(bias); right = load(bias + 16); }
      (*take)(panel, token + row, load(sums + row * 32) + left, load(sums + row * 32 + 16) + right);
    }
  }
  INLINE const float* bias_of(int i) {
    const float* bias = o->forms[o->row_of[i]].bias;
    return bias ? bias + panel * 32 : NOTHING;
  }
};

static void scale(const Operands& o, int panel, int token, float (*sums)[32]) {
  for (int r = 0; r < 32 && token + r < o.tokens; r++) {
    const TokenForms& form = o.forms[o.row_of[token + r]];
    if (!form.scale) continue;
    for (int c = 0; c < 32; c += 16) {
      const v16 shift = form.shift ? load(form.shift + panel * 32 + c) : all(0.f);
      store(sums[r] + c, mul_add(load(sums[r] + c), load(form.scale + panel * 32 + c), shift));
    }
  }
}

template <bool two, bool keep_weights, class Take>
INLINE void one_square(const Operands& o, int panel, int q, float (*scratch)[32], Waiting<Take>& waiting) {
  const i64 slices = o.map->in / 32, steps = o.last - o.first;
  const int token = q * 32, share = (int)((32 + steps - 1) / steps);
  const Square& square = o.squares[q];
  const bf16* upper = o.a + (i64)q * 2 * steps * 512;
  float* kept = o.kept ? o.kept + ((i64)panel * ((o.tiles + 1) / 2) + q) * 1024 : nullptr;
  Sums sums;
  if (o.first) {
    sums.start_upper(kept, 128);
    if (two) sums.start_lower(kept + 512, 128);
  } else {
    sums.start_zero();
  }
  sums.template multiply<two, keep_weights>(upper, upper + steps * 512, o.map->weight + (panel * slices + o.first) * 1024, steps, [&] { waiting.some(share); });
  waiting.some(32);
  if (o.last < slices) {
    sums.store_upper(kept, 128);
    if (two) sums.store_lower(kept + 512, 128);
    return;
  }
  if (square.scaled) {
    sums.store_upper(scratch[0], 128);
    if (two) sums.store_lower(scratch[16], 128);
    scale(o, panel, token, scratch);
    sums.start_upper(scratch[0], 128);
    if (two) sums.start_lower(scratch[16], 128);
  }
  for (int i = 0; i < square.term_count; i++) {
    const Term& term = square.terms[i];
    const bf16* factor = term.factor + panel * 2 * term.half;
    sums.add(term.upper, two ? term.lower : nullptr, factor, factor + term.half);
  }
  sums.store_upper(scratch[0], 128);
  if (two) sums.store_lower(scratch[16], 128);
  waiting = {waiting.take, &o, scratch[0], panel, token, 0, o.tokens - token < 32 ? o.tokens - token : 32, square.uniform};
}

template <bool keep_weights, class Take>
static void squares(const Operands& o, int panel, int from, int to, float (*scratch)[32][32], int& turn, Waiting<Take>& waiting) {
  for (int q = from; q < to; q++, turn ^= 1) {
    if (2 * q + 1 < o.tiles) one_square<true, keep_weights>(o, panel, q, scratch[turn], waiting);
    else one_square<false, keep_weights>(o, panel, q, scratch[turn], waiting);
  }
}

// `take(panel, token, left 16 sums, right 16 sums)` gets every row of every panel.
template <class Take>
static void product(const Operands& o, Take take) {
  alignas(64) float scratch[2][32][32];
  Waiting<Take> waiting{&take, &o, nullptr, 0, 0, 0, 0, true};
  const i64 steps = o.last - o.first;
  const int count = (o.tiles + 1) / 2;
  int turn = 0;
#ifndef GROUP_STEPS
#define GROUP_STEPS 12
#endif
  // Few numbers: as many tokens as fit stay in the first cache while the panels pass. Many: a panel stays instead.
  const int group = steps < GROUP_STEPS ? (int)(GROUP_STEPS / steps) : count;
  for (int q = 0; q < count; q += group)
    for (int panel = o.from; panel < o.to; panel++) {
      const int to = q + group < count ? q + group : count;
      if (steps < GROUP_STEPS) squares<false>(o, panel, q, to, scratch, turn, waiting);
      else squares<true>(o, panel, q, to, scratch, turn, waiting);
    }
  waiting.some(32);
}
