"""The kernel's portable build under sanitisers and with guard pages: what it reads and writes stays in its buffers."""

from __future__ import annotations

import ctypes

import pytest
from support.native_builds import native_build, run_sanitized

from serving.kernel.instruction_sets import KERNEL_ABI

LOAD = """
import ctypes, sys
version = ctypes.CDLL(sys.argv[1]).onetrunk_kernel_abi
version.restype = ctypes.c_int64
print(version())
"""

BEYOND_ITS_END = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
ctypes.memset(ctypes.create_string_buffer(64), 1, 64 + 4096)
"""


def test_the_sanitised_build_loads_and_is_of_the_version_that_is_called():
    done = run_sanitized(LOAD, str(native_build("sanitized")))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(KERNEL_ABI), "")


def test_a_write_beyond_a_buffer_is_found():
    done = run_sanitized(BEYOND_ITS_END, str(native_build("sanitized")))
    assert done.returncode == 99
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("name", ["portable", "guards"])
def test_a_portable_build_runs_on_any_cpu(name):
    version = ctypes.CDLL(str(native_build(name))).onetrunk_kernel_abi
    version.restype = ctypes.c_int64
    assert version() == KERNEL_ABI
