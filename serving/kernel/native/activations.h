// The activations of an MLP and of bottlenecks, and 2^x for the softmax.
#pragma once
#include "vec.h"

// x Phi(x): Phi by an odd polynomial of x, held within 3.7, where it is 0 or 1; the result's error stays below 5e-4.
INLINE v16 gelu(v16 x) {
  const v16 c = within(x, all(3.7f)), t = c * c;
  v16 p = all(-4.899685563941603e-07f);
  p = mul_add(p, t, all(2.688854146981612e-05f));
  p = mul_add(p, t, all(-0.0006174981244839728f));
  p = mul_add(p, t, all(0.007848668843507767f));
  p = mul_add(p, t, all(-0.06258761137723923f));
  p = mul_add(p, t, all(0.3964749574661255f));
  return x * mul_add(p, c, all(0.5f));
}

// 2^x of x <= 0: the power of two below x apart, the rest by a polynomial on [0, 1); relative error below 8e-5.
INLINE v16 exp2_below_one(v16 x) {
  x = max(x, all(-126.f));
  const v16 r = above_floor(x);
  v16 p = all(0.07802528918298911f);
  p = mul_add(p, r, all(0.22606605137152241f));
  p = mul_add(p, r, all(0.6958338971696977f));
  p = mul_add(p, r, all(0.9999252377259129f));
  return times_power_of_two(p, x);
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
