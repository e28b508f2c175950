"""The kernel's library: its functions with their types. Every size is checked before a call (`packing`, `kernel`)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int64, c_void_p
from pathlib import Path

from serving.kernel.structs import Run

SIGNATURES: dict[str, tuple[list[type[ctypes._SimpleCData[object]] | type[object]], object]] = {
    "onetrunk_new_pool": ([c_int64], c_void_p),
    "onetrunk_free_pool": ([c_void_p], None),
    "onetrunk_run": ([c_void_p, POINTER(Run), c_int64], None),
    "onetrunk_peak": ([c_int64], c_int64),
    "onetrunk_pack_weight": ([c_void_p, c_int64, c_int64, c_void_p], None),
    "onetrunk_pack_task": ([c_void_p, c_int64, c_void_p], c_int64),
}


def load_library(path: Path) -> ctypes.CDLL:
    """Load a library that `choose_kernel` chose; its calls release the interpreter's lock."""
    library = ctypes.CDLL(str(path))
    for name, (arguments, result) in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
