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
  float* part;                 // [square][32][32]: sums of one panel that wait for its next part
};

// Slices of a panel that stay in the first cache while all tokens pass: where its sums begin (null: at zero), and where
// they wait for further slices, `square` after `square` (null: these are the last).
struct Part { i64 from, to; const float* begin; float* wait; };

static const float NOTHING[32] = {};

INLINE const float* bias_of(const Operands& o, int token, int panel) {
  const float* bias = o.forms[o.row_of[token]].bias;
  return bias ? bias + panel * 32 : NOTHING;
}

// Sums of a finished square wait here, and are taken row by row between the next square's tile products.
template <class Take>
struct Waiting {
  Take* take;
  const Operands* o;
  const float *sums, *bias;  // bias null: each row has its own
  int panel, token, row, end;
  int share;                    // rows that are taken at a time
  const char *next, *next_end;  // weights that will be needed: they come into the second cache meanwhile

  INLINE void one() {
    const float* b = bias ? bias : bias_of(*o, token + row, panel);
    (*take)(panel, token + row, load(sums + row * 32) + load(b), load(sums + row * 32 + 16) + load(b + 16));
    row++;
  }
  INLINE void some() {
    for (const int stop = row + share < end ? row + share : end; row < stop;) one();
    for (int line = 0; line < share && next < next_end; line++, next += 64) __builtin_prefetch(next, 0, 2);
  }
  INLINE void rest() { while (row < end) one(); }
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

const i64 TERMS_AHEAD = 4;  // panels: a task's factors come from the third cache

template <bool two, bool keep_weights, bool often, class Take>
INLINE void one_square(const Operands& o, int panel, int q, const Part& part, float (*scratch)[32], Waiting<Take>& waiting) {
  const i64 slices = o.map->in / 32, steps = o.last - o.first;
  const int token = q * 32;
  const Square& square = o.squares[q];
  const bf16* upper = o.a + ((i64)q * 2 * steps + part.from - o.first) * 512;
  Sums sums;
  if (part.begin) {
    sums.start_upper(part.begin + (i64)q * 1024, 128);
    if (two) sums.start_lower(part.begin + (i64)q * 1024 + 512, 128);
  } else {
    sums.start_zero();
  }
  const int calls = (int)(part.to - part.from) * (!often ? 1 : two ? 4 : 2);
  waiting.share = (32 + calls - 1) / calls;
  sums.template multiply<two, keep_weights, often>(upper, upper + steps * 512, o.map->weight + (panel * slices + part.from) * 1024, part.to - part.from, [&] { waiting.some(); });
  waiting.rest();
  if (part.wait) {
    sums.store_upper(part.wait + (i64)q * 1024, 128);
    if (two) sums.store_lower(part.wait + (i64)q * 1024 + 512, 128);
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
    const bf16 *factor = term.factor + panel * 2 * term.half, *soon = factor + TERMS_AHEAD * 2 * term.half;
    for (i64 n = 0; n < term.half && n < 512; n += 32) {
      __builtin_prefetch(soon + n, 0, 2);
      __builtin_prefetch(soon + term.half + n, 0, 2);
    }
    sums.add(term.upper, two ? term.lower : nullptr, factor, factor + term.half);
  }
  sums.store_upper(scratch[0], 128);
  if (two) sums.store_lower(scratch[16], 128);
  const int end = o.tokens - token < 32 ? o.tokens - token : 32;
  waiting = {waiting.take, &o, scratch[0], square.uniform ? bias_of(o, token, panel) : nullptr, panel, token, 0, end, 0, waiting.next, waiting.next_end};
}

template <bool keep_weights, bool often, class Take>
static void squares(const Operands& o, int panel, const Part& part, int from, int to, float (*scratch)[32], Waiting<Take>& waiting) {
  for (int q = from; q < to; q++) {
    if (2 * q + 1 < o.tiles) one_square<true, keep_weights, often>(o, panel, q, part, scratch, waiting);
    else one_square<false, keep_weights, often>(o, panel, q, part, scratch, waiting);
  }
}

const i64 FEW_WEIGHTS = 512 << 10;  // bytes of a map that stay in the second cache beside the activations
const i64 FEW_STEPS = 12;           // of tokens, or of a panel, that stay in the first cache

// `take(panel, token, left 16 sums, right 16 sums)` gets every row of every panel; `often`: it is much work.
template <bool often, class Take>
static void product(const Operands& o, Take take) {
  alignas(64) float scratch[32][32];
  Waiting<Take> waiting{&take, &o, nullptr, nullptr, 0, 0, 0, 0, 0, nullptr, nullptr};
  const i64 steps = o.last - o.first, slices = o.map->in / 32;
  const int count = (o.tiles + 1) / 2;
  // Few weights: some tokens stay in the first cache while all panels pass. Many: a panel stays while all tokens pass.
  const bool few = o.map->out * o.map->in * (i64)sizeof(bf16) <= FEW_WEIGHTS;
  const i64 parts = few ? 1 : (steps + FEW_STEPS - 1) / FEW_STEPS, most = (steps + parts - 1) / parts;
  const int group = !few ? count : steps < FEW_STEPS ? (int)(FEW_STEPS / steps) : 1;
  for (int q = 0; q < count; q += group)
    for (int panel = o.from; panel < o.to; panel++) {
      float* kept = o.kept ? o.kept + (i64)panel * count * 1024 : nullptr;
      const int to = q + group < count ? q + group : count;
      const bf16* next = o.map->weight + ((panel + 1) * slices + o.first) * 1024;
      waiting.next = (const char*)next;
      waiting.next_end = (const char*)(q == 0 && panel + 1 < o.to ? next + steps * 1024 : next);
      for (i64 k = o.first; k < o.last; k += most) {
        const bool begins = k == o.first, ends = k + most >= o.last;
        const Part part = {k, ends ? o.last : k + most, begins ? (o.first ? kept : nullptr) : o.part, ends ? (o.last < slices ? kept : nullptr) : o.part};
        if (few) squares<false, often>(o, panel, part, q, to, scratch, waiting);
        else squares<true, often>(o, panel, part, q, to, scratch, waiting);
      }
    }
  waiting.rest();
}
