// Nonlinear bottlenecks beside a branch: x += act(conv(act(v down + down_bias))) up + up_bias, each row by its own task.
#pragma once
#include "activations.h"
#include "low_rank.h"

INLINE v16 activate_as(i64 activation, v16 x) {
  switch (activation) {
    case GELU: return activate<GELU>(x);
    case GELU_TANH: return activate<GELU_TANH>(x);
    case QUICK_GELU: return activate<QUICK_GELU>(x);
    default: return activate<RELU>(x);
  }
}

INLINE const Bottleneck* bottleneck_of(const Chunk& c, int row, int branch) {
  const Bottleneck* form = c.forms[row] ? &c.forms[row]->beside[branch] : nullptr;
  return form && form->down ? form : nullptr;
}

INLINE bool any_bottleneck(const Chunk& c, int branch, Input input) {
  for (int row = 0; row < c.rows; row++) {
    const Bottleneck* form = bottleneck_of(c, row, branch);
    if (form && form->input == input) return true;
  }
  return false;
}

// The residual, as tiles that a product takes.
static void tiles_of_residual(const Chunk& c, bf16* out) {
  const i64 dim = c.model->dim, steps = dim / 32;
  for (int i = 0; i < c.count; i++)
    for (i64 s = 0; s < steps; s++) memcpy(out + ((i64)(i / 16) * steps + s) * 512 + i % 16 * 32, c.x + i * dim + s * 32, 64);
}

// hidden (token, width) -> act(conv(hidden)), 3 x 3 over the grid of patches; each prefix token is a grid of one.
static void convolve(const Chunk& c, const Bottleneck& form, int tokens, const float* hidden, float* out) {
  const int wide = (int)(form.width + 15) / 16 * 16, height = (int)c.model->grid_height, width = (int)c.model->grid_width;
  const int prefix = (int)c.model->prefix;
  for (int i = 0; i < tokens; i++) {
    const int y = i < prefix ? 0 : (i - prefix) / width, x = i < prefix ? 0 : (i - prefix) % width;
    for (int n = 0; n < wide; n += 16) {
      v16 total = form.conv_bias ? load(form.conv_bias + n) : all(0.f);
      for (int tap = 0; tap < 9; tap++) {
        const int dy = tap / 3 - 1, dx = tap % 3 - 1;
        const bool outside = y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width;
        if (i < prefix ? tap != 4 : outside) continue;
        const float* from = hidden + (i64)(i + dy * width + dx) * wide;
        const float* weight = form.conv + (i64)tap * form.width * wide + n;
        for (int k = 0; k < form.width; k++) total = mul_add(all(from[k]), load(weight + (i64)k * wide), total);
      }
      store(out + (i64)i * wide + n, activate_as(form.activation, total));
    }
  }
}

// Write a row's hidden numbers to `beside`: zero in other rows' tokens and beyond the width.
static void put_hidden(const Chunk& c, int row, const Bottleneck& form, const float* hidden) {
  const int wide = (int)(form.width + 15) / 16 * 16, begin = c.begin[row], end = c.begin[row + 1];
  for (int t = begin / 16; t * 16 < end; t++)
    for (int slice = 0; slice < slices_of(form.width); slice++)
      for (int r = 0; r < 16; r++) {
        const int token = t * 16 + r, left = token >= begin && token < end ? (int)form.width - slice * 32 : 0;
        const float* from = hidden + (i64)(token - begin) * wide + slice * 32;
        store_bf16(c.beside + place(c, t, row) + slice * 512 + r * 32, left > 0 ? first_lanes(left, load(from)) : all(0.f),
                   left > 16 ? first_lanes(left - 16, load(from + 16)) : all(0.f));
      }
}

// act(v down + down_bias) of one row, and its convolution, to `beside`; v as tiles.
static void squeeze(const Chunk& c, int row, const Bottleneck& form, const bf16* v) {
  const int wide = (int)(form.width + 15) / 16 * 16, begin = c.begin[row], end = c.begin[row + 1];
  const i64 steps = c.model->dim / 32;
  Ahead nothing = {nullptr, nullptr, 0};
  lower_row(c, row, v, Factor{form.down, form.width, 0, steps, steps, nullptr, nullptr, steps}, nothing, [&](int t, int half, const float* sums) {
    for (int r = 0; r < 16; r++, sums += 16) {
      const int token = t * 16 + r, n = half * 16;
      if (token < begin || token >= end) continue;
      store(c.grid + (i64)(token - begin) * wide + n, activate_as(form.activation, load(sums) + load(form.down_bias + n)));
    }
  });
  if (!form.conv) return put_hidden(c, row, form, c.grid);
  float* convolved = c.grid + (i64)(end - begin) * wide;
  convolve(c, form, end - begin, c.grid, convolved);
  put_hidden(c, row, form, convolved);
}

static void squeeze_all(const Chunk& c, int branch, Input input, const bf16* v) {
  for (int row = 0; row < c.rows; row++) {
    const Bottleneck* form = bottleneck_of(c, row, branch);
    if (form && form->input == input) squeeze(c, row, *form, v);
  }
}

// x += hidden up + up_bias
static void widen(const Chunk& c, int row, const Bottleneck& form) {
  alignas(64) float sums[1024];
  const i64 dim = c.model->dim, half = even(form.width) * 16;
  const int begin = c.begin[row], end = c.begin[row + 1];
  for (int t = begin / 16; t * 16 < end; t++)
    for (i64 column = 0; column < dim; column += 32) {
      Sums s;
      s.start_zero();
      for (int slice = 0; slice < slices_of(form.width); slice++) {
        const bf16* up = form.up + slice * 512 + column / 16 * half;
        s.add(c.beside + place(c, t, row) + slice * 512, nullptr, up, up + half);
      }
      s.store_upper(sums, 128);
      const v16 left = load(form.up_bias + column), right = load(form.up_bias + column + 16);
      for (int r = 0; r < 16; r++) {
        if (t * 16 + r < begin || t * 16 + r >= end) continue;
        bf16* x = c.x + (i64)(t * 16 + r) * dim + column;
        store_bf16(x, load_bf16(x) + (load(sums + r * 32) + left), load_bf16(x + 16) + (load(sums + r * 32 + 16) + right));
      }
    }
}

static void widen_all(const Chunk& c, int branch) {
  for (int row = 0; row < c.rows; row++)
    if (const Bottleneck* form = bottleneck_of(c, row, branch)) widen(c, row, *form);
}
