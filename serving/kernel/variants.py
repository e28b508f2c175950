"""The instruction sets that the kernel is compiled for: the table that the build and the choice at run time read."""

# hatch_build.py runs this file by its path, before onetrunk is installed: it imports the standard library alone.
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = Path(__file__).parent / "lib"
BUILD_RECORD = "build.json"  # beside the libraries: what they were made of, or why there is none

# What a compiler may use of its own accord under the flags below, as /proc/cpuinfo names it.
HASWELL = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe", "popcnt"})
COOPERLAKE = HASWELL | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"}
SAPPHIRE_RAPIDS = COOPERLAKE | {
    "amx_tile", "amx_bf16", "avx_vnni", "avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_bitalg",
    "avx512_vpopcntdq", "avx512_fp16", "gfni",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One library: how it is compiled, and what a CPU must have to run it; `advantage` completes "this CPU …"."""

    title: str
    advantage: str
    compile_flags: tuple[str, ...]
    cpu_flags: frozenset[str]


# The best first. `lib/NAME.so` is the library, and ONETRUNK_KERNEL takes the name.
VARIANTS = {
    "amx": Variant(
        "AMX", "multiplies bf16 tiles (amx_bf16)", ("-march=sapphirerapids", "-DONETRUNK_AMX"), SAPPHIRE_RAPIDS
    ),
    "avx512": Variant(
        "AVX512-BF16", "multiplies bf16 vectors (avx512_bf16)", ("-march=cooperlake", "-DONETRUNK_AVX512"), COOPERLAKE
    ),
}
