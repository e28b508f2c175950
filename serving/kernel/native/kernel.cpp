// The C interface of the engine's kernel. Python checks every size before a call (serving/kernel/).
#include "pool.h"
#include "task.h"

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
// Pack a task's arrays; return the first that has a number which is infinite or NaN, -1 where none has.
EXPORT i64 onetrunk_pack_task(const Piece* pieces, i64 count, char* memory) { return write_pieces(pieces, count, memory); }
