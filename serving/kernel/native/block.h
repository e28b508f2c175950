// One transformer block: x + scale(attention(norm(x))), then x + scale(mlp(norm(x))), with what each row's task adds.
#pragma once
#include "attention.h"
#include "bottleneck.h"
#include "norm.h"

// x += scale * y, which `keep` also wants as tiles.
struct Residual {
  const Chunk* c;
  const float* scale;
  bf16* keep;
  INLINE void operator()(int panel, int token, v16 left, v16 right) const {
    const i64 dim = c->model->dim, column = panel * 32;
    if (scale) { left = left * load(scale + column); right = right * load(scale + column + 16); }
    if (keep) store_bf16(keep + ((i64)(token / 16) * (dim / 32) + panel) * 512 + token % 16 * 32, left, right);
    bf16* x = c->x + (i64)token * dim + column;
    store_bf16(x, left + load_bf16(x), right + load_bf16(x + 16));
  }
};

// What bottlenecks beside a branch take before it: its norm, or the residual.
static void before_branch(const Chunk& c, int branch) {
  squeeze_all(c, branch, NORMED, c.normed);
  if (!any_bottleneck(c, branch, RESIDUAL)) return;
  tiles_of_residual(c, c.branch);
  squeeze_all(c, branch, RESIDUAL, c.branch);
}

// What they take after it: what it adds, or the sum; then what all of them add.
static void after_branch(const Chunk& c, int branch) {
  squeeze_all(c, branch, OUTPUT, c.branch);
  if (any_bottleneck(c, branch, SUM)) {
    tiles_of_residual(c, c.branch);
    squeeze_all(c, branch, SUM, c.branch);
  }
  widen_all(c, branch);
}

static void attention_branch(Chunk& c, const Block& block) {
  const i64 dim = c.model->dim, steps = dim / 32;
  norm_tokens(c, 0, block.norms[0], c.normed);
  before_branch(c, 0);
  lower(c, QKV, c.normed, steps, 0, steps, steps, c.low);
  scale_inputs(c, QKV, c.normed, 0, steps);
  bf16* qkv = c.qkv;
  const uint8_t* panels = needed_of(c, &Kept::qkv, 3 * steps);
  product<false>(with_tasks(c, QKV, block.maps[QKV], c.normed, c.low, panels, 0, steps, steps), [=](int panel, int token, v16 left, v16 right) {
    store_bf16(qkv + (i64)token * 3 * dim + panel * 32, left, right);
  });
  if (block.query.weight || block.key.weight) norm_queries_and_keys(c, block);
  attention(c);
  const uint8_t* slices = needed_of(c, &Kept::proj, steps);
  clear_left_out(c, &Kept::proj, slices, steps, c.normed, 0, steps);
  lower(c, PROJ, c.normed, steps, 0, steps, steps, c.low);
  scale_inputs(c, PROJ, c.normed, 0, steps);
  const i64 kept = needed_end(c, slices, steps);
  product<false>(with_tasks(c, PROJ, block.maps[PROJ], c.normed, c.low, slices, 0, kept, kept), Residual{&c, block.scales[0], any_bottleneck(c, 0, OUTPUT) ? c.branch : nullptr});
  after_branch(c, 0);
}

// fc1 and its activation over some panels of the hidden layer.
template <int activation>
static void hidden_layer(const Operands& fc1, bf16* hidden) {
  const i64 steps = fc1.to - fc1.from;  // slices of a tile of the hidden layer
  const int from = fc1.from;
  product<true>(fc1, [=](int panel, int token, v16 left, v16 right) {
    store_bf16(hidden + ((i64)(token / 16) * steps + panel - from) * 512 + token % 16 * 32, activate<activation>(left), activate<activation>(right));
  });
}

static void mlp_branch(Chunk& c, const Block& block) {
  const Model& m = *c.model;
  const i64 steps = m.dim / 32, part = hidden_part(m) / 32;
  norm_tokens(c, 1, block.norms[1], c.normed);
  before_branch(c, 1);
  lower(c, FC1, c.normed, steps, 0, steps, steps, c.low);
  scale_inputs(c, FC1, c.normed, 0, steps);
  const uint8_t* needed = needed_of(c, &Kept::hidden, m.hidden / 32);
  const i64 all = needed_end(c, needed, m.hidden / 32);
  const Residual residual = {&c, block.scales[1], any_bottleneck(c, 1, OUTPUT) ? c.branch : nullptr};
  for (i64 first = 0; first < all; first += part) {
    const i64 last = first + part < all ? first + part : all;
    Operands fc1 = with_tasks(c, FC1, block.maps[FC1], c.normed, c.low, needed, 0, steps, steps);
    fc1.from = (int)first, fc1.to = (int)last;
    switch (m.activation) {
      case GELU: hidden_layer<GELU>(fc1, c.hidden); break;
      case GELU_TANH: hidden_layer<GELU_TANH>(fc1, c.hidden); break;
      case QUICK_GELU: hidden_layer<QUICK_GELU>(fc1, c.hidden); break;
      default: hidden_layer<RELU>(fc1, c.hidden);
    }
    clear_left_out(c, &Kept::hidden, needed, m.hidden / 32, c.hidden, first, last - first);
    lower(c, FC2, c.hidden, last - first, first, last, all, c.low2);
    scale_inputs(c, FC2, c.hidden, first, last - first);
    Operands fc2 = with_tasks(c, FC2, block.maps[FC2], c.hidden, c.low2, needed, first, last, all);
    fc2.kept = c.sums;
    product<false>(fc2, residual);
  }
  after_branch(c, 1);
}

static void run_block(Chunk& c, const Block& block) {
  attention_branch(c, block);
  mlp_branch(c, block);
}
