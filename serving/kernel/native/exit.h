// Where a task leaves: the last norm, pooling and the task's head, in float32.
#pragma once
#include "norm.h"

// The features (dim) of one row's tokens, of which there are `count`.
static void pool(const Model& m, const bf16* tokens, i64 count, const Norm& norm, float* features, float* work) {
  const i64 dim = m.dim, from = m.average ? m.prefix : 0, to = m.average ? count : 1;
  memset(features, 0, dim * sizeof(float));
  for (i64 i = from; i < to; i++) {
    if (norm.weight) norm_token(tokens + i * dim, dim, norm, m.last_eps, work);
    else for (i64 k = 0; k < dim; k += 16) store(work + k, load_bf16(tokens + i * dim + k));
    for (i64 k = 0; k < dim; k += 16) store(features + k, load(features + k) + load(work + k));
  }
  const v16 share = all(1.0f / (float)(to - from));
  for (i64 k = 0; k < dim; k += 16) store(features + k, load(features + k) * share);
}

// The same norm of numbers that are float32 already.
static void norm_features(float* x, i64 dim, const Norm& norm, double eps) {
  v16 total = all(0.f), square = all(0.f);
  for (i64 k = 0; k < dim; k += 16) total = total + load(x + k);
  const v16 mean = all(sum(total) / (float)dim);
  for (i64 k = 0; k < dim; k += 16) { const v16 apart = load(x + k) - mean; square = mul_add(apart, apart, square); }
  const v16 inverse = all(1.0f / std::sqrt(sum(square) / (float)dim + (float)eps));
  for (i64 k = 0; k < dim; k += 16) store(x + k, mul_add((load(x + k) - mean) * inverse, load(norm.weight + k), load(norm.bias + k)));
}

static void leave(const Model& m, const bf16* tokens, i64 count, const Exit& exit, float* work) {
  float* features = work + m.dim;
  pool(m, tokens, count, exit.norm, features, work);
  if (m.pooled.weight) norm_features(features, m.dim, m.pooled, m.last_eps);
  for (i64 c = 0; c < exit.classes; c++) {
    const bf16* weight = exit.weight + c * m.dim;
    v16 left = all(0.f), right = all(0.f);
    for (i64 k = 0; k < m.dim; k += 32) {
      left = mul_add(load_bf16(weight + k), load(features + k), left);
      right = mul_add(load_bf16(weight + k + 16), load(features + k + 16), right);
    }
    exit.logits[c] = sum(left + right) + exit.bias[c];
  }
}
