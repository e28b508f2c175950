// The entry points of the engine's kernel: plain C, so that one library serves every torch and Python.
#include <cstdint>

// serving/kernel/instruction_sets.py names the version that it calls; another one is not used.
extern "C" __attribute__((visibility("default"))) int64_t onetrunk_kernel_abi(void) { return 1; }
