"""Builds of the kernel for tests alone, by the compiler and flags of hatch_build.py: sanitised, with guard pages."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

import hatch_build
from serving.kernel.instruction_sets import choose_kernel
from support.processes import importing

CACHE = hatch_build.ROOT / ".pytest_cache" / "native"
PORTABLE = ("-O1", "-g", "-DONETRUNK_PORTABLE")
TEST_BUILDS = {
    "portable": ("-O2", "-DONETRUNK_PORTABLE"),
    "guards": (*PORTABLE, "-DONETRUNK_GUARDS"),  # a page without access after every buffer, poisoned scratch
    "sanitized": (*PORTABLE, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
}
# What a preloaded ASan needs to find: its own runtime first, then the C++ runtime whose exceptions it intercepts.
RUNTIMES = ("libasan.so", "libubsan.so", "libstdc++.so")


@functools.cache
def compiler() -> hatch_build.Compiler:
    """Return the system's compiler, or skip the test where there is none."""
    found = hatch_build.system_compiler() if hatch_build.supported_platform() else None
    if found is None:
        pytest.skip("no compiler for C++ and AMX on this system")
    return found


def native_build(name: str) -> Path:
    """Return the library of this name in TEST_BUILDS or VARIANTS, compiled where it is not in the cache.

    "guards_best" is the one that this CPU would run, with guard pages.
    """
    optimised = {key: (*hatch_build.OPTIMISE, *variant.compile_flags) for key, variant in hatch_build.VARIANTS.items()}
    best = optimised.get(choose_kernel("auto").name or "", TEST_BUILDS["portable"])
    flags = {**optimised, **TEST_BUILDS, "guards_best": (*best, "-DONETRUNK_GUARDS")}[name]
    library = CACHE / f"{name}-{hatch_build.sources_digest((compiler().name, *flags))[:16]}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        source = hatch_build.NATIVE / hatch_build.MAIN
        compiler().build(source, library, flags=flags, link_flags=tuple(flag for flag in flags if "sanitize" in flag))
    return library


def run_sanitized(script: str, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that may load the sanitised library; `sys.argv[1:]` are the arguments.

    What a sanitiser finds ends the process with a code that is not 0, and its report on stderr.
    """
    environment = importing() | {
        "LD_PRELOAD": " ".join(map(_runtime, RUNTIMES)),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",  # Python itself leaks at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # each object is an allocation that ASan sees
    }
    command = (sys.executable, "-c", script, *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


@functools.cache
def _runtime(name: str) -> str:
    """Return the path of a runtime library of the compiler, or skip the test where it has none."""
    command = (*compiler().compile, f"-print-file-name={name}")
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip(f"{compiler().name} has no {name}: install its sanitisers")
    return str(Path(path).resolve())
