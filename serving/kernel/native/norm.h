// Layer norms, each row by its own task's weight and bias or by the backbone's.
#pragma once
#include "kept.h"

struct Moments { v16 inverse, shift; };  // (x - mean) / deviation = x * inverse + shift

INLINE Moments moments(const bf16* x, i64 dim, double eps) {
  v16 s0 = all(0.f), s1 = s0, q0 = s0, q1 = s0;
  for (i64 i = 0; i < dim; i += 32) { s0 = s0 + load_bf16(x + i); s1 = s1 + load_bf16(x + i + 16); }
  const float mean = sum(s0 + s1) / (float)dim;
  const v16 middle = all(mean);
  for (i64 i = 0; i < dim; i += 32) {
    const v16 u = load_bf16(x + i) - middle, v = load_bf16(x + i + 16) - middle;
    q0 = mul_add(u, u, q0);
    q1 = mul_add(v, v, q1);
  }
  const float inverse = 1.0f / std::sqrt(sum(q0 + q1) / (float)dim + (float)eps);
  return {all(inverse), all(-mean * inverse)};
}

INLINE v16 normed16(const bf16* x, const Moments& m, const Norm& norm, i64 i) {
  return mul_add(mul_add(load_bf16(x + i), m.inverse, m.shift), load(norm.weight + i), load(norm.bias + i));
}

// The norm of the chunk's tokens, into tiles.
static void norm_tokens(const Chunk& c, int which, const Norm& of_backbone, bf16* out) {
  const i64 dim = c.model->dim, steps = dim / 32;
  for (int i = 0; i < c.count; i++) {
    const Forms* forms = c.forms[c.row_of[i]];
    const Norm& norm = forms && forms->norms[which].weight ? forms->norms[which] : of_backbone;
    const bf16* x = c.x + i * dim;
    const Moments m = moments(x, dim, c.model->norm_eps);
    bf16* o = out + (i / 16) * steps * 512 + i % 16 * 32;
    for (i64 k = 0; k < dim; k += 32, o += 512) store_bf16(o, normed16(x, m, norm, k), normed16(x, m, norm, k + 16));
  }
}

// The norm of one token, in float32.
static void norm_token(const bf16* x, i64 dim, const Norm& norm, double eps, float* out) {
  const Moments m = moments(x, dim, eps);
  for (i64 k = 0; k < dim; k += 16) store(out + k, normed16(x, m, norm, k));
}

// The norm of `size` numbers of a head, in place: of queries and of keys.
static void norm_head(bf16* x, i64 size, const Norm& norm, double eps) {
  float mean = 0, square = 0;
  float values[512];
  for (i64 i = 0; i < size; i++) { const uint32_t bits = (uint32_t)x[i] << 16; memcpy(values + i, &bits, 4); mean += values[i]; }
  mean /= (float)size;
  for (i64 i = 0; i < size; i++) square += (values[i] - mean) * (values[i] - mean);
  const float inverse = 1.0f / std::sqrt(square / (float)size + (float)eps);
  for (i64 i = 0; i < size; i++) {
    const float y = (values[i] - mean) * inverse * norm.weight[i] + norm.bias[i];
    alignas(64) float lane[16] = {y};
    bf16 rounded[16];
    store_bf16(rounded, load(lane));
    x[i] = rounded[0];
  }
}

static void norm_queries_and_keys(const Chunk& c, const Block& block) {
  const i64 dim = c.model->dim, head = dim / c.model->heads;
  for (int i = 0; i < c.count; i++)
    for (i64 h = 0; h < dim; h += head) {
      if (place_at(kept_of(c, c.row_of[i], &Kept::heads), h / head) < 0) continue;
      bf16* q = c.qkv + i * 3 * dim + h;
      if (block.query.weight) norm_head(q, head, block.query, c.model->query_key_eps);
      if (block.key.weight) norm_head(q + dim, head, block.key, c.model->query_key_eps);
    }
}
