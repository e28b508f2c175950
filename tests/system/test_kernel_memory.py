"""The kernel's portable build under sanitisers and with guard pages: what it reads and writes stays in its buffers."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from support.native_builds import native_build, run_sanitized
from support.processes import importing

from serving.kernel.instruction_sets import KERNEL_ABI

LOAD = """
import ctypes, sys
version = ctypes.CDLL(sys.argv[1]).onetrunk_kernel_abi
version.restype = ctypes.c_int64
print(version())
"""

BATCHES = """
import sys
from pathlib import Path
from support.kernel_cases import kernel_engine, random_backbone, random_batch
for seed in range(int(sys.argv[2]), int(sys.argv[3])):
    backbone = random_backbone(seed, 1200)
    engine = kernel_engine(backbone, Path(sys.argv[1]), threads=1 + seed % 3)
    batch = random_batch(backbone, seed, rows=1 + seed % 4, ranks=(0, 1, 17, 33))
    answers = engine.forward(batch.images, batch.tasks, batch.image_of)
    assert all(logits.isfinite().all() for logits in answers), backbone.record.id.arguments
print(f"{seed + 1} batches")
"""

PIECES = """
import ctypes, random, sys
from pathlib import Path
import numpy as np
from serving.kernel.library import load_library
from serving.kernel.pieces import FLOATS, NUMBERS, PIECE, ROUNDED, A, B
library, draw = load_library(Path(sys.argv[1])), random.Random(0)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(300):
    kind, numbers = draw.choice((A, B, NUMBERS, FLOATS, ROUNDED)), draw.randrange(3)
    rows, columns = draw.choices(range(1, 90), k=2)
    even, whole = -(-rows // 2) * 2, -(-columns // 32) * 32
    if kind == B:
        even, whole = -(-columns // 2) * 2, -(-rows // 32) * 32
    numbers = 1 if kind == FLOATS else numbers
    columns = columns if kind in (A, B) else rows + columns
    count = rows * columns if kind in (A, B) else rows
    odd, nbytes = draw.randrange(4), count * (4 if numbers == 1 else 2)
    source = libc.malloc(nbytes + odd)  # it ends with the last number, and begins at any byte
    ctypes.memset(source, 0, nbytes + odd)
    target = libc.malloc({A: 2 * even * whole, B: 2 * even * whole, NUMBERS: 2 * rows}.get(kind, 4 * columns))
    call = np.array([(kind, source + odd, numbers, rows, columns, 0.5, 0)], PIECE)
    assert library.onetrunk_pack_task(call.ctypes.data, 1, target) == -1
    libc.free(source)
    libc.free(target)
print("packed")
"""

OF_ANOTHER_HEIGHT = """
import sys
from pathlib import Path
from support.kernel_cases import kernel_engine, random_backbone, random_batch
backbone = random_backbone(0, 1200)
engine = kernel_engine(backbone, Path(sys.argv[1]))
batch = random_batch(backbone, 0, rows=2)
engine._model.kernel._model.grid_height += 1  # the last channel ends one row of patches beyond the images
engine.forward(batch.images, batch.tasks, batch.image_of)
"""

BEYOND_ITS_END = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
ctypes.memset(ctypes.create_string_buffer(64), 1, 64 + 4096)
"""


def test_the_sanitised_build_loads_and_is_of_the_version_that_is_called():
    done = run_sanitized(LOAD, str(native_build("sanitized")))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(KERNEL_ABI), "")


@pytest.mark.parametrize("first", [0, 10])
def test_batches_of_every_form_stay_in_their_buffers(first):
    done = run_sanitized(BATCHES, str(native_build("sanitized")), str(first), str(first + 10))
    assert (done.returncode, done.stdout.strip()) == (0, f"{first + 10} batches"), done.stderr[-3000:]


def test_arrays_of_any_size_are_packed_from_where_they_end_to_where_they_end():
    done = run_sanitized(PIECES, str(native_build("sanitized")))
    assert (done.returncode, done.stdout.strip()) == (0, "packed"), done.stderr[-3000:]


def test_a_batch_that_reads_beyond_its_images_is_found():
    done = run_sanitized(OF_ANOTHER_HEIGHT, str(native_build("sanitized")))
    assert done.returncode == 99, done.stderr[-3000:]
    assert "AddressSanitizer" in done.stderr


@pytest.mark.parametrize("name", ["guards", "guards_best"])
def test_every_buffer_ends_at_a_page_that_nobody_may_touch(name):
    library = native_build(name)
    done = subprocess.run(
        (sys.executable, "-c", BATCHES, str(library), "30", "50"),
        env=importing(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "50 batches"), done.stderr[-3000:]


def test_a_write_beyond_a_buffer_is_found():
    done = run_sanitized(BEYOND_ITS_END, str(native_build("sanitized")))
    assert done.returncode == 99
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("name", ["portable", "guards"])
def test_a_portable_build_runs_on_any_cpu(name):
    version = ctypes.CDLL(str(native_build(name))).onetrunk_kernel_abi
    version.restype = ctypes.c_int64
    assert version() == KERNEL_ABI
