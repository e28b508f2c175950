// From pixels to tokens: patches times the patch embedding, plus the position, and a norm where the backbone has one.
#pragma once
#include "norm.h"

// One patch's pixels as numbers of a product, channel by channel; zero after them.
static void put_patch(const Model& m, const float* image, int patch, bf16* out) {
  const int high = (int)m.patch_height, wide = (int)m.patch_width, columns = (int)m.grid_width;
  const i64 width = (i64)columns * wide, area = m.grid_height * high * width;
  const float* corner = image + (i64)(patch / columns) * high * width + patch % columns * wide;
  i64 k = 0;
  for (int channel = 0; channel < 3; channel++)
    for (int y = 0; y < high; y++)
      for (int x = 0; x < wide; x += 16) {
        const int count = wide - x < 16 ? wide - x : 16;
        bf16 pixels[16];
        float row[16] = {};
        memcpy(row, corner + channel * area + y * width + x, (size_t)count * 4);
        store_bf16(pixels, load(row));
        for (int i = 0; i < count; i++, k++) out[k / 32 * 512 + k % 32] = pixels[i];
      }
  for (; k < m.patch.in; k++) out[k / 32 * 512 + k % 32] = 0;
}

static void norm_residual(const Chunk& c, const Norm& norm) {
  const i64 dim = c.model->dim;
  for (int i = 0; i < c.count; i++) {
    bf16* x = c.x + i * dim;
    const Moments m = moments(x, dim, c.model->norm_eps);
    for (i64 k = 0; k < dim; k += 16) store_bf16(x + k, normed16(x, m, norm, k));
  }
}

static void stem(Chunk& c, const float* const* images) {
  const Model& m = *c.model;
  const i64 steps = m.patch.in / 32, dim = m.dim;
  const int prefix = (int)m.prefix, tokens = (int)m.tokens;  // of each row: none is left out before the first block
  for (int i = 0; i < c.count; i++) {
    bf16* out = c.normed + (i64)(i / 16) * steps * 512 + i % 16 * 32;
    if (i % tokens >= prefix) put_patch(m, images[i / tokens], i % tokens - prefix, out);
    else for (i64 s = 0; s < steps; s++) memset(out + s * 512, 0, 64);
  }
  bf16* x = c.x;
  const float* position = m.position;
  for (int row = 0; row < c.rows; row++) c.forms[row] = nullptr;
  product<false>(with_tasks(c, QKV, m.patch, c.normed, c.low, nullptr, 0, steps, steps), [=](int panel, int token, v16 left, v16 right) {
    const float* at = position + (i64)(token % tokens) * dim + panel * 32;
    const bool patch = token % tokens >= prefix;
    const v16 u = load(at), v = load(at + 16);
    store_bf16(x + (i64)token * dim + panel * 32, patch ? left + u : u, patch ? right + v : v);
  });
  if (m.before.weight) norm_residual(c, m.before);
}
