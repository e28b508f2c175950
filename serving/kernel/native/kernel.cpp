// The C interface of the engine's kernel. Python checks every size before a call (serving/kernel/).
#include "pack.h"
#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT i64 onetrunk_kernel_abi() { return 4; }

EXPORT Pool* onetrunk_new_pool(i64 threads) { return new_pool((int)threads); }
EXPORT void onetrunk_free_pool(Pool* pool) { free_pool(pool); }

// Rows are cut into `chunks`, which the pool's threads take; the same bytes whatever their number.
EXPORT void onetrunk_run(Pool* pool, const Walk* walk, i64 chunks) { run_walk(*pool, *walk, (int)chunks); }

// Multiply tiles in registers alone, the matrix unit's own rate; return how many operations that were, none without one.
EXPORT i64 onetrunk_peak(i64 steps) {
#ifdef ONETRUNK_AMX
  begin_tiles();
  Sums sums;
  sums.multiply_registers(steps);
  end_tiles();
  return steps * 4 * 2 * 16 * 16 * 32;
#else
  return steps * 0;
#endif
}

EXPORT void onetrunk_pack_weight(const bf16* weight, i64 out, i64 in, bf16* packed) { pack_weight(weight, out, in, packed); }
// Whether none of the numbers is infinite or NaN.
EXPORT i64 onetrunk_all_finite(const bf16* numbers, i64 count) {
  int bad = 0;
  for (i64 i = 0; i < count; i++) bad |= (numbers[i] & 0x7f80) == 0x7f80;
  return !bad;
}
EXPORT void onetrunk_pack_a(const bf16* a, i64 rank, i64 in, bf16* packed) { pack_a(a, rank, in, packed); }
EXPORT void onetrunk_pack_b(const bf16* b, i64 rank, i64 out, bf16* packed) { pack_b(b, rank, out, packed); }
