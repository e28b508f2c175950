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

// One product of 32 ranks that a task adds to a square; null where no token of that tile is the task's. At place p of
// a panel: factor + 2 p half, and half behind it.
struct Term { const bf16 *upper, *lower, *factor; i64 half; const i64* at; };

// What a row's sums get: scale * sums + shift before the terms, and bias after them; null where there is nothing.
struct TokenForms { const float *scale, *shift, *bias; const i64* at; };

// The place of a panel in a task's own arrays, -1 where they have none of it; `at` null: all are there.
INLINE i64 place_at(const i64* at, i64 panel) { return at ? at[panel] : panel; }

struct Run { i64 from, to; };  // neighbouring slices of numbers

// What a square of tokens sums over, and what it adds to the base product: the same for all panels.
struct Square { const Term* terms; int term_count; bool uniform, scaled; const Run* runs; int run_count; };

struct Operands {
  const Linear* map;
  const bf16* a;               // the tokens, of the slices from `first` on
  i64 width;                   // slices of a tile of tokens in memory
  int tiles, tokens;
  const Square* squares;       // of 32 tokens each
  const TokenForms* forms;     // of each row
  const int16_t* row_of;       // of each token
  int from, to;                // panels
  i64 first, last, all;        // slices of numbers, of so many in the whole sum
  const uint8_t* needed;       // [square][panel]: whether it has to be made; null: all have
  float* kept;                 // [panel][square][32][32]: sums that wait for further slices, null where all are there
  float* part;                 // [square][32][32]: sums of one panel that wait for its next part
};

// Slices of a panel that stay in the first cache while all tokens pass: where its sums begin (null: at zero), and where
// they wait for further slices, `square` after `square` (null: these are the last).
struct Part { i64 from, to; const float* begin; float* wait; };

// What of a run lies in a part.
struct Shared { i64 from, to; INLINE i64 steps() const { return to > from ? to - from : 0; } };
INLINE Shared shared(const Run& run, const Part& part) {
  return {run.from > part.from ? run.from : part.from, run.to < part.to ? run.to : part.to};
}

static const float NOTHING[32] = {};

INLINE const float* bias_of(const Operands& o, int token, int panel) {
  const TokenForms& form = o.forms[o.row_of[token]];
  const i64 own = place_at(form.at, panel);
  return form.bias && own >= 0 ? form.bias + own * 32 : NOTHING;
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
    const i64 own = place_at(form.at, panel);
    if (!form.scale || own < 0) continue;
    for (int c = 0; c < 32; c += 16) {
      const v16 shift = form.shift ? load(form.shift + own * 32 + c) : all(0.f);
      store(sums[r] + c, mul_add(load(sums[r] + c), load(form.scale + own * 32 + c), shift));
    }
  }
}

const i64 TERMS_AHEAD = 4;  // panels: a task's factors come from the third cache

template <bool two, bool keep_weights, bool often, class Take>
INLINE void one_square(const Operands& o, int panel, int q, const Part& part, float (*scratch)[32], Waiting<Take>& waiting) {
  const int token = q * 32;
  const Square& square = o.squares[q];
  const bf16 *upper = o.a + ((i64)q * 2 * o.width - o.first) * 512, *weight = o.map->weight + panel * (o.map->in / 32) * 1024;
  Sums sums;
  if (part.begin) {
    sums.start_upper(part.begin + (i64)q * 1024, 128);
    if (two) sums.start_lower(part.begin + (i64)q * 1024 + 512, 128);
  } else {
    sums.start_zero();
  }
  i64 steps = 0;
  for (int i = 0; i < square.run_count; i++) steps += shared(square.runs[i], part).steps();
  const int calls = (int)steps * (!often ? 1 : two ? 4 : 2);
  waiting.share = calls ? (32 + calls - 1) / calls : 32;
  for (int i = 0; i < square.run_count; i++) {
    const Shared run = shared(square.runs[i], part);
    if (run.steps()) sums.template multiply<two, keep_weights, often>(upper + run.from * 512, upper + (o.width + run.from) * 512, weight + run.from * 1024, run.steps(), [&] { waiting.some(); });
  }
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
    const i64 own = place_at(term.at, panel);
    if (own < 0) continue;
    const bf16 *factor = term.factor + own * 2 * term.half, *soon = factor + TERMS_AHEAD * 2 * term.half;
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
    if (o.needed && !o.needed[q * (o.map->out / 32) + panel]) continue;
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
        const Part part = {k, ends ? o.last : k + most, begins ? (o.first ? kept : nullptr) : o.part, ends ? (o.last < o.all ? kept : nullptr) : o.part};
        if (few) squares<false, often>(o, panel, part, q, to, scratch, waiting);
        else squares<true, often>(o, panel, part, q, to, scratch, waiting);
      }
    }
  waiting.rest();
}
