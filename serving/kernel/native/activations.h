// The activations of an MLP and of bottlenecks, and 2^x for the softmax.
#pragma once
#include "vec.h"

// x Phi(x): Phi by an odd polynomial that was fitted to erf on [-4.2, 4.2] and reaches 0 and 1 at its ends.
INLINE v16 gelu(v16 x) {
  const float end = 1.0000219f;
  const v16 limit = all(4.2f), c = min(max(x, -limit), limit), t = c * c;
  v16 p = all(4.923804766687745e-11f * end);
  p = mul_add(p, t, all(-4.795650987432509e-09f * end));
  p = mul_add(p, t, all(2.0724729665744235e-07f * end));
  p = mul_add(p, t, all(-5.289558885124279e-06f * end));
  p = mul_add(p, t, all(8.983589214039966e-05f * end));
  p = mul_add(p, t, all(-0.0010864587966352701f * end));
  p = mul_add(p, t, all(0.009740939363837242f * end));
  p = mul_add(p, t, all(-0.06622207909822464f * end));
  p = mul_add(p, t, all(0.39883458614349365f * end));
  return x * mul_add(p, c, all(0.5f));
}

// 2^x of x <= 0: the power of two apart, the rest by a polynomial on [-1/2, 1/2]; relative error below 5e-5.
INLINE v16 exp2_below_one(v16 x) {
  x = max(x, all(-126.f));
  const v16 n = round_nearest(x), r = x - n;
  v16 p = all(0.0096181291f);
  p = mul_add(p, r, all(0.0555041087f));
  p = mul_add(p, r, all(0.2402265070f));
  p = mul_add(p, r, all(0.6931471806f));
  p = mul_add(p, r, all(1.0f));
  return times_power_of_two(p, n);
}
INLINE v16 exp2(v16 x) { return exp2_below_one(min(x, all(126.f))); }

INLINE v16 sigmoid(v16 x) { return all(1.f) / (all(1.f) + exp2(x * all(-1.44269504f))); }

template <int activation>
INLINE v16 activate(v16 x) {
  if (activation == GELU) return gelu(x);
  if (activation == GELU_TANH) return x * sigmoid(all(1.5957691216f) * mul_add(x * x * x, all(0.044715f), x));
  if (activation == QUICK_GELU) return x * sigmoid(all(1.702f) * x);
  return max(x, all(0.f));
}
